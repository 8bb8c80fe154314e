"""Rules of weights over a ladder, one weighted backward pass, and the variance and bias of what comes out."""

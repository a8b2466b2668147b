"""Radio in, ellipse out: IQ samples to log-mel, to the predictor, to a position with an error ellipse."""

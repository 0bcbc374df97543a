"""`sweep`: our LSTM against `torch.nn.LSTM` over sizes, to see that the kernel chosen is never the slower one.

def turn(*a): raise NotImplementedError
def turn_backward(*a): raise NotImplementedError

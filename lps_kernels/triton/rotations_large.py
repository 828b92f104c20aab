def turn(*a): raise NotImplementedError
def turn_backward(*a): raise NotImplementedError
def turn_back(*a): raise NotImplementedError
def turn_back_backward(*a): raise NotImplementedError

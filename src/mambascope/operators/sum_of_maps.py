"""stub"""
class SumOfMaps:
    pass

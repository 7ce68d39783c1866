"""Commands that come before a run: is the machine well, what will it take?"""

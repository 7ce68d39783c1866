"""Formats to give a model away in: a file each, found by its name.

A file has `LIBRARY`, what the card says that opens the folder; `DTYPES`, what --dtype may ask of it; and

    check(config)                                RequestError where a model of such a config can't be written so
    write(opened, origin, folder, dtype)         fills the folder; returns {"dtype"} and what else should be said
    how(opened, origin, folder, at)              how the folder is opened, in lines that run as they are
"""

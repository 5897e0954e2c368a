"""One module for each kind of file: `parse(file, size, to)` builds with *to* what the file holds.

*file* is read at will, and is *size* bytes long. A parser runs in a process of its own and may import
heavy libraries, inside its functions. It raises `Unpresentable` for a file of which nothing can be
presented, and leaves out by name whatever else cannot be. Whatever else it raises costs the file.
"""

"""The data of the tasks: where it is and how it is read. Errors name the file, the line and the reason."""

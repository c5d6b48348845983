"""Files over sockets: the wire, the disk, and the store between them. Importing it patches nothing."""

"""How gserver compares, measured here and now: `make bench`, or one command at a time.

http        throughput, CPU, latency and the access log, beside other servers
slowdisk    a hot file while others wait for slow storage, beside other servers
footprint   memory of connections (idle) and of a full cache (memory), and the time to the first answer (start)
samememory  disk reads where all have the same memory, page cache included, beside other servers
hotpath     CPU time per request and the lines that spend it; before and after a change
fills       cold files and blocked readers

They share: the servers (peers), who asks them (load, clients, replay, slow_clients) for what (workloads, traces),
in which order (rounds), on which storage (slow_fuse) and in which memory (cgroups), what looks inside (sampler,
perf), and how it is said (tables, report, command).
"""

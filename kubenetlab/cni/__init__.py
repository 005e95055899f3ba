"""CNI runtime: calls network plugins in the way that container runtimes do with libcni.

    conflist.py      network configuration list → `NetworkList`
    templates.py     values of the node in a configuration: `{{.PodCIDR}}`, `usePodCidr`
    capabilities.py  pod → `runtimeConfig`: port mappings, bandwidth, requested addresses, DNS
    invocations.py   one call of one plugin: environment and standard input
    results.py       a plugin's result: decode, convert between versions
    failures.py      a plugin's error: decode, explain its code
    cache.py         content and name of the file that keeps the result of ADD
    runtime.py       sequences of calls: ADD, DEL, CHECK, GC, STATUS, VERSION
    calls.py         attaching pods: what the lab asks the runtime for

The package starts no process and opens no file: `runtime.Runtime` is given an executor of plugins
and a store of results (`kernel/processes/cni_plugins.py`).
Source: containernetworking/cni SPEC.md 1.1.0, libcni/api.go, pkg/invoke, pkg/types.
"""

"""A real control plane on loopback: etcd, API server, controllers, scheduler; kwok plays kubelet.

Its programs are built from this folder's go.mod, or taken from KUBEBUILDER_ASSETS. Pods become
Running and nothing runs in them: what a pod would run is tested on real processes beside it.
"""

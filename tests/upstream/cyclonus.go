// Decide about connections with the evaluator of Cyclonus.
//
// Each line of the input is a world in JSON; the answer is a line with true or false for each of its
// connections.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// An end of a connection; hosts outside the cluster have no namespace.
type party struct {
	IP              string
	Namespace       string
	NamespaceLabels map[string]string
	PodLabels       map[string]string
}

type connection struct {
	Source, Destination party
	Port                int
	PortName            string
	Protocol            string
}

type world struct {
	Policies    []*networkingv1.NetworkPolicy
	Connections []connection
}

func (p party) peer() *matcher.TrafficPeer {
	if p.Namespace == "" {
		return &matcher.TrafficPeer{IP: p.IP}
	}
	return &matcher.TrafficPeer{IP: p.IP, Internal: &matcher.InternalPeer{
		Namespace: p.Namespace, NamespaceLabels: p.NamespaceLabels, PodLabels: p.PodLabels,
	}}
}

func main() {
	input, output := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var w world
		if err := input.Decode(&w); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		policy := matcher.BuildNetworkPolicies(true, w.Policies)
		verdicts := make([]bool, len(w.Connections))
		for i, c := range w.Connections {
			verdicts[i] = policy.IsTrafficAllowed(&matcher.Traffic{
				Source: c.Source.peer(), Destination: c.Destination.peer(),
				ResolvedPort: c.Port, ResolvedPortName: c.PortName, Protocol: v1.Protocol(c.Protocol),
			}).IsAllowed()
		}
		if err := output.Encode(verdicts); err != nil {
			log.Fatal(err)
		}
	}
}

//go:build unix

package brokertest

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// KafkaOptions describes a throw-away Kafka.
type KafkaOptions struct {
	// Nodes is the number of nodes, each broker and controller. Defaults to 1.
	// With three, topics are created with three replicas by default, and one
	// node may be lost.
	Nodes int

	// Secure adds the listeners of [KafkaSecurity].
	Secure bool

	// Proxied puts a [FaultProxy] between every node and its clients: clients
	// are told the proxies' addresses. Plaintext only.
	Proxied bool

	// Properties are more lines of server.properties.
	Properties map[string]string
}

// KafkaCluster is a throw-away Kafka.
type KafkaCluster struct {
	Addr     string         // bootstrap servers, separated by commas
	Nodes    []*Process     // node id i+1 is Nodes[i]
	Proxies  []*FaultProxy  // one per node, if Proxied
	Security *KafkaSecurity // if Secure
}

// StartKafka starts a Kafka of the test's own: 4 seconds for one node, 10 for
// three. Its nodes can be killed and started again with their data.
func StartKafka(t testing.TB, o KafkaOptions) *KafkaCluster {
	t.Helper()
	_, err := local.KafkaLibs()
	check(t, "kafka", err)
	n := max(1, o.Nodes)
	dir := t.TempDir()
	c := &KafkaCluster{Nodes: make([]*Process, n)}

	var certs *local.Certs
	if o.Secure {
		certs, err = local.MakeCerts(filepath.Join(dir, "certs"))
		check(t, "kafka", err)
		check(t, "kafka", certs.MakeOAuthKey())
	}
	const each = 6 // ports of a node: five listeners and the controller
	ports, err := local.Ports(n * each)
	check(t, "kafka", err)
	controllers := make(map[int]int, n)
	for i := range n {
		controllers[i+1] = ports[i*each+each-1]
	}

	id := local.NewClusterID()
	servers := make([]local.Server, n)
	addrs := make([]string, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		k := local.Kafka{
			Name:        fmt.Sprintf("kafka %d", i+1),
			ID:          i + 1,
			ClusterID:   id,
			Dir:         filepath.Join(dir, fmt.Sprint(i+1)),
			Ports:       map[local.Listener]int{local.Plaintext: ports[i*each]},
			Controllers: controllers,
			Secure:      certs,
			Properties:  o.Properties,
			ShortLived:  true,
		}
		addrs[i] = local.Addr(ports[i*each])
		if o.Secure {
			for j, l := range local.Listeners {
				k.Ports[l] = ports[i*each+j]
			}
		}
		if o.Secure && i == 0 {
			c.Security = securityOf(k.Ports, certs)
		}
		if o.Proxied {
			p := Proxy(t, addrs[i])
			k.Advertise = map[local.Listener]int{local.Plaintext: p.Port()}
			c.Proxies = append(c.Proxies, p)
			addrs[i] = p.Addr
		}
		wg.Go(func() { servers[i], errs[i] = k.Server(startContext(t)) })
	}
	wg.Wait()
	for _, err := range errs {
		check(t, "kafka", err)
	}
	c.Addr = strings.Join(addrs, ",")

	// All at once: none is ready before a majority is there.
	procs := make([]*local.Process, n)
	for i := range n {
		c.Nodes[i] = &Process{Addr: addrs[i], t: t, name: "kafka", server: servers[i]}
		wg.Go(func() { procs[i], errs[i] = servers[i].Start(startContext(t), false) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, p := range c.Nodes {
			if p.proc != nil {
				_ = p.proc.Kill()
			}
		}
	})
	for i := range n {
		c.Nodes[i].proc = procs[i]
	}
	for _, err := range errs {
		check(t, "kafka", err)
	}
	return c
}

//go:build unix

package brokertest

import (
	"context"
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// FaultProxy is a TCP proxy that can do to a connection what networks do.
// Everything it does holds for open and for new connections, until Restore.
type FaultProxy struct {
	Addr string // where clients connect, host:port; never changes

	t     testing.TB
	proxy *toxiproxy.Proxy

	mu     sync.Mutex
	toxics map[string]bool
}

// Proxy starts a proxy to upstream (host:port) on the loopback interface, until
// the test ends. Upstream need not be there yet.
//
// A Kafka client goes on to the address that the broker tells it, past a proxy
// in front of it: for Kafka use [KafkaOptions.Proxied], or give the client
// [FaultProxy.Dial].
func Proxy(t testing.TB, upstream string) *FaultProxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p := &FaultProxy{t: t, proxy: toxiproxy.NewProxy(server, t.Name(), local.Addr(Port(t)), upstream), toxics: map[string]bool{}}
	if err := p.proxy.Start(); err != nil {
		t.Fatalf("start proxy to %s: %v", upstream, err)
	}
	p.Addr = p.proxy.Listen
	t.Cleanup(p.proxy.Stop)
	return p
}

// Port is the port of Addr.
func (p *FaultProxy) Port() int {
	_, port, _ := net.SplitHostPort(p.Addr)
	n, _ := strconv.Atoi(port)
	return n
}

// Dial connects through the proxy, whatever addr is asked for.
func (p *FaultProxy) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, p.Addr)
}

// Cut closes every connection and refuses new ones, as a dead host does.
func (p *FaultProxy) Cut() { p.proxy.Stop() }

// Latency delays what the broker answers by d, give or take jitter.
func (p *FaultProxy) Latency(d, jitter time.Duration) {
	p.t.Helper()
	p.add("latency", "downstream", map[string]any{"latency": d.Milliseconds(), "jitter": jitter.Milliseconds()})
}

// BlackHole swallows everything in both directions; connections stay open.
func (p *FaultProxy) BlackHole() {
	p.t.Helper()
	p.add("timeout", "upstream", map[string]any{"timeout": 0})
	p.add("timeout", "downstream", map[string]any{"timeout": 0})
}

// LoseReplies lets requests through and swallows the answers: the broker does
// what it was asked and the client never learns.
func (p *FaultProxy) LoseReplies() {
	p.t.Helper()
	p.add("timeout", "downstream", map[string]any{"timeout": 0})
}

// Bandwidth limits each direction of each connection to kbps kilobytes a second.
func (p *FaultProxy) Bandwidth(kbps int) {
	p.t.Helper()
	p.add("bandwidth", "upstream", map[string]any{"rate": kbps})
	p.add("bandwidth", "downstream", map[string]any{"rate": kbps})
}

// Restore ends every fault. Connections that a black hole swallowed data of are
// closed, since their streams have holes.
func (p *FaultProxy) Restore() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for name := range p.toxics {
		if strings.HasPrefix(name, "timeout") {
			p.proxy.Stop()
		}
	}
	for name := range p.toxics {
		if err := p.proxy.Toxics.RemoveToxic(ctx, name); err != nil {
			p.t.Errorf("remove %s from proxy: %v", name, err)
		}
		delete(p.toxics, name)
	}
	p.proxy.Lock()
	enabled := p.proxy.Enabled
	p.proxy.Unlock()
	if enabled {
		return
	}
	if err := p.proxy.Start(); err != nil {
		p.t.Errorf("restore proxy on %s: %v", p.Addr, err)
	}
}

// add puts a toxic on one direction, or replaces the one of its kind.
func (p *FaultProxy) add(kind, stream string, attributes map[string]any) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	name := kind + "-" + stream
	spec, err := json.Marshal(map[string]any{"name": name, "type": kind, "stream": stream, "attributes": attributes})
	if err == nil {
		if p.toxics[name] {
			_, err = p.proxy.Toxics.UpdateToxicJson(name, strings.NewReader(string(spec)))
		} else {
			_, err = p.proxy.Toxics.AddToxicJson(strings.NewReader(string(spec)))
		}
	}
	if err != nil {
		p.t.Errorf("add %s to proxy: %v", name, err)
		return
	}
	p.toxics[name] = true
}

//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// Where a broker came from.
const (
	given   = "environment" // an address in the environment: not ours to stop
	compose = "compose"     // a container: scripts/brokers stops it
	native  = "native"      // a process that up started
)

// service is one broker that tests can use.
type service struct {
	From  string                 `json:"from"`
	Ports map[local.Listener]int `json:"ports,omitempty"` // Kafka's listeners
	Addr  string                 `json:"addr"`            // what a client is told: host:port, or a URL that was given
	PID   int                    `json:"pid,omitempty"`
	Birth string                 `json:"birth,omitempty"`
}

// running tells whether the service can still be there: a process of ours that
// ended cannot.
func (s *service) running() bool {
	return s != nil && (s.From != native || local.Attach(s.PID, s.Birth) != nil)
}

// machine is what up has arranged, kept in a file until down.
type machine struct {
	dir string

	redisPort, benchPort, kafkaPort int // where up starts them, if it can

	Redis *service `json:"redis,omitempty"`
	Bench *service `json:"bench_redis,omitempty"`
	Kafka *service `json:"kafka,omitempty"`
}

func load(dir string) (*machine, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	m := &machine{dir: dir}
	b, err := os.ReadFile(m.file("state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s: %w", m.file("state.json"), err)
	}
	for _, s := range []**service{&m.Redis, &m.Bench, &m.Kafka} {
		if !(*s).running() {
			*s = nil
		}
	}
	return m, nil
}

func (m *machine) save() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(m.file("state.json"), b, 0o644)
}

func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }
func (m *machine) certs() *local.Certs     { return &local.Certs{Dir: m.file("certs")} }

package bus

import (
	"fmt"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
)

// openBackend makes the backend that a complete configuration names.
func openBackend(cfg Config) (driver.Backend, error) {
	switch cfg.Backend {
	case Memory:
		return membus.Open(membus.Config{Partitions: cfg.TopicPartitions, Logger: cfg.Logger}), nil
	case Disabled:
		return newDisabled(cfg.Logger), nil
	}
	return nil, fmt.Errorf("backend %q", cfg.Backend)
}

// backendProblems checks what the chosen backend needs.
func (c *Config) backendProblems() []error { return nil }

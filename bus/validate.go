package bus

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/aura360/eventbus/middleware"
)

// Names of the backends, as MESSAGING_BACKEND has them.
const (
	Kafka    = "kafka"
	Redis    = "redis"
	Memory   = "memory"
	Disabled = "disabled"
)

var backends = []string{Kafka, Redis, Memory, Disabled}

// Names of the builds, as MESSAGING_ADAPTER has them.
const (
	Native    = "native"
	Watermill = "watermill"
)

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`)

// complete fills the defaults and returns everything that is wrong, nil when
// nothing is.
func (c *Config) complete() *ConfigError {
	var problems []error
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	add(c.chooseBackend())
	orDefault(&c.Adapter, Native)
	if c.Adapter != Native && c.Adapter != Watermill {
		add(choice("MESSAGING_ADAPTER", c.Adapter, Native, Watermill))
	}
	orDefault(&c.Namespace, "eventbus")
	if !namePattern.MatchString(c.Namespace) {
		add(invalid("MESSAGING_NAMESPACE", c.Namespace, "1 to 100 characters of a-z A-Z 0-9 . _ -"))
	}
	if c.ServiceName == "" {
		c.ServiceName = filepath.Base(os.Args[0])
	}

	add(whole("MESSAGING_MAX_EVENT_BYTES", &c.MaxEventBytes, 1<<20, 1, 32<<20))
	add(span("MESSAGING_PUBLISH_TIMEOUT", &c.PublishTimeout, 30*time.Second, time.Millisecond, 10*time.Minute))
	add(span("MESSAGING_PUBLISH_ATTEMPT_TIMEOUT", &c.PublishAttemptTimeout, 10*time.Second, time.Millisecond, 10*time.Minute))
	add(whole("MESSAGING_MAX_IN_FLIGHT", &c.MaxInFlight, 256, 1, 10_000))
	add(whole("MESSAGING_RETRY_MAX_ATTEMPTS", &c.RetryMaxAttempts, 5, 1, 100))
	add(span("MESSAGING_RETRY_INITIAL_INTERVAL", &c.RetryInitialInterval, 100*time.Millisecond, time.Millisecond, 10*time.Minute))
	add(span("MESSAGING_RETRY_MAX_INTERVAL", &c.RetryMaxInterval, 10*time.Second, time.Millisecond, time.Hour))
	if c.RetryDelays == nil {
		c.RetryDelays = middleware.DefaultDelays()
	}
	if c.RetryDelays.Check() != nil {
		add(invalid("MESSAGING_RETRY_DELAYS", c.RetryDelays.String(), middleware.DelaysWanted))
	}
	add(span("MESSAGING_HANDLER_TIMEOUT", &c.HandlerTimeout, 0, 0, 24*time.Hour))
	add(span("MESSAGING_DRAIN_TIMEOUT", &c.DrainTimeout, 30*time.Second, time.Millisecond, time.Hour))
	add(whole("MESSAGING_DEDUP_ENTRIES", &c.DedupEntries, 1_000_000, 1000, 100_000_000))
	add(span("MESSAGING_DEDUP_TTL", &c.DedupTTL, time.Hour, time.Second, 7*24*time.Hour))
	if c.CreateTopics == nil {
		yes := true
		c.CreateTopics = &yes
	}
	add(whole("MESSAGING_TOPIC_PARTITIONS", &c.TopicPartitions, 3, 1, 1000))
	add(span("MESSAGING_TOPIC_RETENTION", &c.TopicRetention, 7*24*time.Hour, time.Minute, 87_600*time.Hour))

	for _, p := range c.Without {
		if !slices.Contains(middleware.PublishPieces, p) {
			add(fmt.Errorf("Config.Without: %q cannot be left out of the publish chain: want some of %v", p, middleware.PublishPieces))
		}
	}
	problems = append(problems, c.backendProblems()...)
	if len(problems) == 0 {
		return nil
	}
	return &ConfigError{Problems: problems}
}

func (c *Config) chooseBackend() error {
	switch {
	case c.Backend == "" && c.Kafka.BootstrapServers != "":
		c.Backend = Kafka
	case c.Backend == "" && c.Redis.URL != "":
		c.Backend = Redis
	case c.Backend == "":
		return fmt.Errorf("MESSAGING_BACKEND is not set: want kafka (with KAFKA_BOOTSTRAP_SERVERS), " +
			"redis (with MESSAGING_REDIS_URL), memory or disabled")
	case c.Backend == "celery":
		return fmt.Errorf("MESSAGING_BACKEND=%q: this build has kafka, redis, memory and disabled", c.Backend)
	case !slices.Contains(backends, c.Backend):
		return choice("MESSAGING_BACKEND", c.Backend, backends...)
	}
	return nil
}

func orDefault(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

func whole(name string, v *int, def, low, high int) error {
	if *v == 0 {
		*v = def
	}
	if *v < low || *v > high {
		return invalid(name, strconv.Itoa(*v), fmt.Sprintf("a whole number from %d to %d", low, high))
	}
	return nil
}

func span(name string, v *time.Duration, def, low, high time.Duration) error {
	if *v == 0 {
		*v = def
	}
	if *v < low || *v > high {
		return invalid(name, v.String(), fmt.Sprintf("a duration from %v to %v", low, high))
	}
	return nil
}

package bus

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/middleware"
)

func TestBackendIsChosenByWhatIsSet(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"named":           {map[string]string{"MESSAGING_BACKEND": "memory", "KAFKA_BOOTSTRAP_SERVERS": "k:9092"}, Memory},
		"kafka wins":      {map[string]string{"KAFKA_BOOTSTRAP_SERVERS": "k:9092", "MESSAGING_REDIS_URL": "redis://r"}, Kafka},
		"redis":           {map[string]string{"MESSAGING_REDIS_URL": "redis://r"}, Redis},
		"redis by alias":  {map[string]string{"REDIS_URL": "redis://r"}, Redis},
		"empty is unset":  {map[string]string{"MESSAGING_BACKEND": "", "KAFKA_BOOTSTRAP_SERVERS": "", "REDIS_URL": "redis://r"}, Redis},
		"named, disabled": {map[string]string{"MESSAGING_BACKEND": "disabled"}, Disabled},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := configFrom(c.env)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Backend != c.want {
				t.Errorf("backend %q, want %q", cfg.Backend, c.want)
			}
		})
	}
}

func TestEveryProblemOfTheEnvironmentIsReportedAtOnce(t *testing.T) {
	_, err := configFrom(map[string]string{
		"MESSAGING_BACKEND":            "kafak",
		"MESSAGING_ADAPTER":            "naitve",
		"MESSAGING_NAMESPACE":          "a b",
		"MESSAGING_MAX_IN_FLIGHT":      "many",
		"MESSAGING_MAX_EVENT_BYTES":    "-1",
		"MESSAGING_PUBLISH_TIMEOUT":    "5",
		"MESSAGING_DRAIN_TIMEOUT":      "0s",
		"MESSAGING_TOPIC_PARTITIONS":   "0",
		"MESSAGING_CREATE_TOPICS":      "perhaps",
		"MESSAGING_STANDBY":            "redis",
		"MESSAGING_SPOOL_DIR":          "/var/spool",
		"MESSAGING_REDIS_URL":          "redis://u:hunter2@r",
		"MESSAGING_REDIS_URL_FILE":     "/does/not/matter",
		"KAFKA_SASL_PASSWORD_FILE":     "/does/not/exist",
		"MESSAGING_RETRY_MAX_ATTEMPTS": "101",
		"MESSAGING_RETRY_DELAYS":       "1m,5s",
	})
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	for _, want := range []string{
		`MESSAGING_BACKEND="kafak": want kafka, redis, memory or disabled (did you mean kafka?)`,
		`MESSAGING_ADAPTER="naitve": want native or watermill (did you mean native?)`,
		`MESSAGING_NAMESPACE="a b": want 1 to 100 characters`,
		`MESSAGING_MAX_IN_FLIGHT="many": want a whole number`,
		`MESSAGING_MAX_EVENT_BYTES="-1": want a whole number from 1 to 33554432`,
		`MESSAGING_PUBLISH_TIMEOUT="5": want a duration such as`,
		`MESSAGING_DRAIN_TIMEOUT="0s": want more than 0`,
		`MESSAGING_TOPIC_PARTITIONS="0": want more than 0`,
		`MESSAGING_CREATE_TOPICS="perhaps": want true or false`,
		`MESSAGING_STANDBY="redis": this build publishes to one backend only`,
		`MESSAGING_SPOOL_DIR="/var/spool": this build has no spool`,
		`MESSAGING_REDIS_URL and MESSAGING_REDIS_URL_FILE are both set`,
		`KAFKA_SASL_PASSWORD_FILE: open /does/not/exist`,
		`MESSAGING_RETRY_MAX_ATTEMPTS="101": want a whole number from 1 to 100`,
		`MESSAGING_RETRY_DELAYS="1m,5s": want none, or up to 10 rising durations`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("the error shows a secret")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestNothingSetSaysHowToChoose(t *testing.T) {
	_, err := configFrom(map[string]string{})
	want := "configuration: MESSAGING_BACKEND is not set: want kafka (with KAFKA_BOOTSTRAP_SERVERS), redis (with MESSAGING_REDIS_URL), memory or disabled"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestBackendOfAnotherBuildIsNamed(t *testing.T) {
	_, err := configFrom(map[string]string{"MESSAGING_BACKEND": "celery"})
	want := `configuration: MESSAGING_BACKEND="celery": this build has kafka, redis, memory and disabled`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := configFrom(map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": "k:9092", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
		"KAFKA_API_KEY": "key", "KAFKA_API_SECRET_FILE": file,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Kafka.SASLPassword.Reveal(); got != "s3cret" {
		t.Errorf("secret %q, want s3cret", got)
	}
	if cfg.Kafka.SASLUsername != "key" {
		t.Errorf("user %q, want key", cfg.Kafka.SASLUsername)
	}
}

func TestDefaultsAreFilled(t *testing.T) {
	cfg, err := configFrom(map[string]string{"MESSAGING_BACKEND": "memory", "MESSAGING_HANDLER_TIMEOUT": "0"})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := Config{
		Backend: Memory, Adapter: Native, Namespace: "eventbus", ServiceName: filepath.Base(os.Args[0]),
		MaxEventBytes: 1 << 20, PublishTimeout: 30 * time.Second, PublishAttemptTimeout: 10 * time.Second,
		MaxInFlight: 256, RetryMaxAttempts: 5, RetryInitialInterval: 100 * time.Millisecond,
		RetryMaxInterval: 10 * time.Second, RetryDelays: middleware.DefaultDelays(), DrainTimeout: 30 * time.Second, DedupEntries: 1_000_000, DedupTTL: time.Hour,
		CreateTopics: &yes, TopicPartitions: 3, TopicRetention: 168 * time.Hour,
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestRetryDelaysAreRead(t *testing.T) {
	for value, want := range map[string]middleware.Delays{
		"none": middleware.NoDelays(), "1s": {time.Second}, "5s, 90m": {5 * time.Second, 90 * time.Minute},
	} {
		cfg, err := configFrom(map[string]string{"MESSAGING_BACKEND": "memory", "MESSAGING_RETRY_DELAYS": value})
		if err != nil || !reflect.DeepEqual(cfg.RetryDelays, want) {
			t.Errorf("%q: got %v, %v, want %v", value, cfg.RetryDelays, err, want)
		}
	}
	err := (&Config{Backend: Memory, RetryDelays: middleware.Delays{-time.Second}}).complete()
	if err == nil || !strings.Contains(err.Error(), `MESSAGING_RETRY_DELAYS="-1s": want none, or`) {
		t.Errorf("got %v", err)
	}
}

func TestSecretNeverShows(t *testing.T) {
	const value = "hunter2"
	s := Secret(value)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "config", KafkaConfig{SASLPassword: s})
	asJSON, err := json.Marshal(KafkaConfig{SASLPassword: s})
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	shown.WriteString(log.String() + string(asJSON) + s.String())
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, format, s)
		fmt.Fprintf(&shown, format, KafkaConfig{SASLPassword: s})
		fmt.Fprintf(&shown, format, &RedisConfig{Password: s})
	}
	if text := shown.String(); strings.Contains(text, value) || strings.Contains(text, fmt.Sprintf("%x", value)) {
		t.Errorf("shown: %s", text)
	}
	if s.Reveal() != value || Secret("").String() != "" {
		t.Error("Reveal or the empty secret is wrong")
	}
}

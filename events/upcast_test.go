package events_test

import (
	stdjson "encoding/json"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/aura360/eventbus/events"
)

// leaky's upcaster returns the errors of JSON libraries as they are, as most
// upcasters will. The event's id says which.
type leaky struct{ events.Base }

var errPlain = errors.New("this order is too old")

var _ = events.Define[leaky]("leaky", events.Topic("t"), events.Version(2), events.Upcast(1, func(b []byte) ([]byte, error) {
	switch s := string(b); {
	case strings.Contains(s, "std-syntax"):
		var v any
		return nil, stdjson.Unmarshal([]byte(`S3CR3T`), &v)
	case strings.Contains(s, "std-type"):
		var v struct {
			M string `json:"m"`
		}
		return nil, stdjson.Unmarshal(b, &v)
	case strings.Contains(s, "exp"):
		var v struct {
			N int `json:"n"`
		}
		return nil, json.Unmarshal(b, &v)
	}
	return nil, errPlain
}))

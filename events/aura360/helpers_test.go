package aura360_test

import (
	"context"
	stdjson "encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
)

func object(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := stdjson.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// memberPaths returns the members of body, and those of data and context_data.
func memberPaths(t *testing.T, body []byte) []string {
	var out []string
	for name, v := range object(t, body) {
		out = append(out, name)
		if sub, ok := v.(map[string]any); ok && (name == "data" || name == "context_data") {
			for n := range maps.Keys(sub) {
				out = append(out, name+"."+n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// without returns body with one member taken away or made null.
func without(t *testing.T, body []byte, path string, null bool) []byte {
	m := object(t, body)
	in, name := m, path
	if outer, inner, ok := strings.Cut(path, "."); ok {
		in, name = m[outer].(map[string]any), inner
	}
	delete(in, name)
	if null {
		in[name] = nil
	}
	b, err := stdjson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// kafkaMessage shows a record's headers and value to the CloudEvents SDK, as
// its Kafka protocol binding does.
type kafkaMessage struct {
	header map[string]string
	value  []byte
}

var ceVersions = spec.WithPrefix("ce_")

func (m kafkaMessage) version() spec.Version {
	return ceVersions.Version(m.header[ceVersions.PrefixedSpecVersionName()])
}

func (m kafkaMessage) ReadEncoding() binding.Encoding {
	if m.version() == nil {
		return binding.EncodingUnknown
	}
	return binding.EncodingBinary
}

func (m kafkaMessage) ReadStructured(context.Context, binding.StructuredWriter) error {
	return binding.ErrNotStructured
}

func (m kafkaMessage) ReadBinary(_ context.Context, w binding.BinaryWriter) error {
	v := m.version()
	if v == nil {
		return binding.ErrNotBinary
	}
	for name, value := range m.header {
		var err error
		if name == "content-type" {
			err = w.SetAttribute(v.AttributeFromKind(spec.DataContentType), value)
		} else if strings.HasPrefix(name, v.Prefix()) {
			if a := v.Attribute(name); a != nil {
				err = w.SetAttribute(a, value)
			} else {
				err = w.SetExtension(strings.TrimPrefix(name, v.Prefix()), value)
			}
		}
		if err != nil {
			return err
		}
	}
	return w.SetData(strings.NewReader(string(m.value)))
}

func (m kafkaMessage) GetAttribute(k spec.Kind) (spec.Attribute, any) {
	if a := m.version().AttributeFromKind(k); a != nil {
		return a, m.header[a.PrefixedName()]
	}
	return nil, nil
}

func (m kafkaMessage) GetExtension(name string) any { return m.header["ce_"+name] }

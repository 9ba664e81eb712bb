// Package lint holds the rules about the module's own shape, as tests.
package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/aura360/eventbus"

// allowed says which of our packages each package may import, besides those
// below internal/. It is DESIGN's table: the way of an event goes one way.
var allowed = map[string][]string{
	"events":              {},
	"events/aura360":      {"events"},
	"bus/driver":          {"events"},
	"bus/membus":          {"events", "bus/driver"},
	"bus/redisbus":        {"events", "bus/driver"},
	"bus/kafkabus":        {"events", "bus/driver"},
	"bus/drivertest":      {"events", "bus/driver"},
	"middleware":          {"events", "bus/driver"},
	"bus":                 {"events", "bus/driver", "bus/membus", "bus/redisbus", "bus/kafkabus", "middleware"},
	"router":              {"events", "bus/driver", "bus", "middleware"},
	"bus/bustest":         {"events", "bus/driver", "bus", "middleware", "router"},
	"internal/relay":      {"events", "bus/driver"},
	"internal/inflight":   {"events", "bus/driver"},
	"internal/wlog":       {},
	"internal/brokertest": {},
}

// outside says which packages may see a library that stands for one backend or
// one concern.
var outside = map[string][]string{
	"github.com/IBM/sarama":                          {"bus/kafkabus", "internal/bench"},
	"github.com/ThreeDotsLabs/watermill-kafka/v3":    {"bus/kafkabus", "internal/bench"},
	"github.com/twmb/franz-go":                       {"bus/kafkabus", "internal/bench", "internal/brokertest"},
	"github.com/redis/go-redis/v9":                   {"bus/redisbus", "internal/redisclient", "internal/bench", "internal/brokertest"},
	"github.com/ThreeDotsLabs/watermill-redisstream": {"bus/redisbus", "internal/bench"},
	"github.com/go-json-experiment/json":             {"events"},
	"github.com/spf13/cobra":                         {"cmd"},
	"charm.land/bubbletea/v2":                        {"cmd"},
}

// eventsOutside is all that package events and its catalogue may import from
// outside the standard library.
var eventsOutside = []string{"github.com/google/uuid", "github.com/go-json-experiment/json"}

func TestImportsFollowTheDesign(t *testing.T) {
	eachImport(t, func(pkg, imported, file string) {
		if own, ok := strings.CutPrefix(imported, module+"/"); ok {
			if strings.HasPrefix(own, "internal/") {
				return
			}
			want, listed := allowed[pkg]
			switch {
			case strings.HasPrefix(pkg, "cmd/"), pkg == "internal/bench", pkg == "internal/docgen", pkg == "internal/lint":
			case !listed && strings.HasPrefix(pkg, "internal/"):
				want = []string{"events", "bus/driver"}
				fallthrough
			default:
				if !listed && !strings.HasPrefix(pkg, "internal/") {
					t.Errorf("package %s is not in the import table", pkg)
				} else if !slices.Contains(want, own) {
					t.Errorf("%s: %s may not import %s", file, pkg, own)
				}
			}
			return
		}
		if strings.HasPrefix(pkg, "events") && strings.Contains(strings.Split(imported, "/")[0], ".") &&
			!slices.ContainsFunc(eventsOutside, func(p string) bool { return under(imported, p) }) {
			t.Errorf("%s: %s may not import %s", file, pkg, imported)
		}
		for lib, owners := range outside {
			if under(imported, lib) && !slices.ContainsFunc(owners, func(o string) bool { return under(pkg, o) }) {
				t.Errorf("%s: %s may not import %s: only %v", file, pkg, imported, owners)
			}
		}
	})
}

func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// eachImport calls f for every import of every file of the module that is not a
// test.
func eachImport(t *testing.T, f func(pkg, imported, file string)) {
	t.Helper()
	const root = "../.."
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && name != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		src, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range src.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f(path.Dir(rel), p, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Fatalf("only %d Go files found: is the root right?", files)
	}
}

package bus

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/aura360/eventbus/middleware"
)

// aliases are other names a variable is also read from, when it is not set.
var aliases = map[string][]string{
	"MESSAGING_REDIS_URL":  {"REDIS_URL"},
	"KAFKA_SASL_USERNAME":  {"KAFKA_API_KEY"},
	"KAFKA_SASL_PASSWORD":  {"KAFKA_API_SECRET"},
	"KAFKA_SASL_MECHANISM": {"KAFKA_SASL_MECHANISMS"},
}

// notBuilt are variables of parts that this build does not have. Ignoring them
// would be a promise broken in silence.
var notBuilt = map[string]string{
	"MESSAGING_STANDBY":   "this build publishes to one backend only",
	"MESSAGING_FAILOVER":  "this build publishes to one backend only",
	"MESSAGING_SPOOL_DIR": "this build has no spool: a publish that no broker confirms is an error",
}

// ConfigError holds every problem of a configuration, one per line.
type ConfigError struct{ Problems []error }

func (e *ConfigError) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "configuration: %d problems", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  - " + p.Error())
	}
	return b.String()
}

// Unwrap returns the problems.
func (e *ConfigError) Unwrap() []error { return e.Problems }

// ConfigFromEnv reads the configuration from the environment and checks it. The
// error is a *ConfigError that names every variable that is wrong, its value
// unless it is a secret, and what is allowed.
func ConfigFromEnv() (Config, error) {
	return configFrom(env.ToMap(os.Environ()))
}

func configFrom(environ map[string]string) (Config, error) {
	var cfg Config
	problems := expand(environ)
	err := env.ParseWithOptions(&cfg, env.Options{Environment: environ})
	problems = append(problems, parseProblems(err, environ)...)
	problems = append(problems, zeroProblems(environ)...)
	if bad := cfg.complete(); bad != nil {
		problems = append(problems, bad.Problems...)
	}
	if len(problems) > 0 {
		return cfg, &ConfigError{Problems: problems}
	}
	return cfg, nil
}

// expand resolves NAME_FILE and aliases in environ, in place. An empty variable
// is one that is not set: compose files and charts write them.
func expand(environ map[string]string) []error {
	var problems []error
	for name, value := range environ {
		if value == "" {
			delete(environ, name)
		}
	}
	resolve := func(name string) {
		file := environ[name+"_FILE"]
		if file == "" {
			return
		}
		if _, both := environ[name]; both {
			problems = append(problems, fmt.Errorf("%s and %s_FILE are both set: want one of them", name, name))
			return
		}
		content, err := os.ReadFile(file)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s_FILE: %w", name, err))
			return
		}
		environ[name] = strings.TrimRight(string(content), "\r\n")
	}
	for _, v := range Variables() {
		if !v.Secret {
			continue
		}
		resolve(v.Name)
		for _, alias := range v.Aliases {
			resolve(alias)
		}
	}
	for name, others := range aliases {
		for _, other := range others {
			if _, set := environ[name]; !set && environ[other] != "" {
				environ[name] = environ[other]
			}
		}
	}
	for _, name := range sortedKeys(notBuilt) {
		if environ[name] != "" {
			problems = append(problems, fmt.Errorf("%s=%q: %s; unset it", name, environ[name], notBuilt[name]))
		}
	}
	return problems
}

// Variable is one environment variable of the configuration.
type Variable struct {
	Name    string
	Aliases []string
	Secret  bool // never shown; also read from the file that NAME_FILE names
	Field   string
	kind    reflect.Type
}

// Variables returns every environment variable that ConfigFromEnv reads, in the
// order of Config's fields.
func Variables() []Variable { return appendVariables(nil, reflect.TypeFor[Config](), "") }

func appendVariables(out []Variable, t reflect.Type, prefix string) []Variable {
	for i := range t.NumField() {
		f := t.Field(i)
		switch name := f.Tag.Get("env"); {
		case name == "-":
		case name != "":
			out = append(out, Variable{
				Name: name, Aliases: aliases[name], Field: prefix + f.Name,
				Secret: f.Type == reflect.TypeFor[Secret](), kind: f.Type,
			})
		case f.Type.Kind() == reflect.Struct:
			out = appendVariables(out, f.Type, prefix+f.Name+".")
		}
	}
	return out
}

// parseProblems rewrites the library's errors, which name Go fields, into ones
// that name variables.
func parseProblems(err error, environ map[string]string) []error {
	var agg env.AggregateError
	if !errors.As(err, &agg) {
		if err != nil {
			return []error{err}
		}
		return nil
	}
	var out []error
	for _, e := range agg.Errors {
		var pe env.ParseError
		i := -1
		vars := Variables()
		if errors.As(e, &pe) {
			i = slices.IndexFunc(vars, func(v Variable) bool {
				return v.Field == pe.Name || strings.HasSuffix(v.Field, "."+pe.Name)
			})
		}
		if i < 0 {
			out = append(out, e)
			continue
		}
		out = append(out, invalid(vars[i].Name, environ[vars[i].Name], wantOf(vars[i].kind)))
	}
	return out
}

// zeroProblems refuses a 0 that somebody wrote: in Config zero means the
// default, in the environment it is a number that most settings cannot be.
func zeroProblems(environ map[string]string) []error {
	var out []error
	for _, v := range Variables() {
		value := environ[v.Name]
		if value == "" || v.Name == "MESSAGING_HANDLER_TIMEOUT" {
			continue
		}
		n, err := strconv.Atoi(value)
		zero := v.kind.Kind() == reflect.Int && err == nil && n == 0
		if d, err := time.ParseDuration(value); v.kind == reflect.TypeFor[time.Duration]() {
			zero = err == nil && d == 0
		}
		if zero {
			out = append(out, invalid(v.Name, value, "more than 0; unset it for the default"))
		}
	}
	return out
}

func wantOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 500ms, 5s or 2h"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t == reflect.TypeFor[*bool]():
		return "true or false"
	case t == reflect.TypeFor[middleware.Delays]():
		return middleware.DelaysWanted
	}
	return "a value of type " + t.String()
}

// invalid is how every wrong setting is reported.
func invalid(name, value, want string) error {
	return fmt.Errorf("%s=%q: want %s", name, value, want)
}

// choice reports a value that is none of allowed, with the likely one.
func choice(name, value string, allowed ...string) error {
	want := strings.Join(allowed[:len(allowed)-1], ", ")
	if want != "" {
		want += " or "
	}
	want += allowed[len(allowed)-1]
	for _, a := range allowed {
		if distance(strings.ToLower(value), strings.ToLower(a)) <= 2 {
			return fmt.Errorf("%w (did you mean %s?)", invalid(name, value, want), a)
		}
	}
	return invalid(name, value, want)
}

// distance is the Levenshtein distance: how many letters to add, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package drivertest

import "testing"

// Case runs one case and returns how it failed.
func Case(t testing.TB, h Harness, name string) []string {
	h = h.withDefaults()
	for _, c := range cases {
		if c.name == name {
			caps := h.capabilities(t)
			return expectFailure(t, func(tb testing.TB) { c.run(newEnv(tb, h, caps)) })
		}
	}
	t.Fatalf("no case %q", name)
	return nil
}

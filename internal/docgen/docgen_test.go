package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestGeneratedPagesAreCurrent(t *testing.T) {
	const root = "../.."
	for name, write := range pages {
		want, err := write(root)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Errorf("%v; run: go run ./internal/docgen", err)
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code says; run: go run ./internal/docgen", name)
		}
	}
}

// Command docgen writes the parts of docs/ that mirror code: the environment
// variables (docs/configuration.md) and the metrics (docs/metrics.md). A test
// fails when the files are not what it writes.
//
//	go run ./internal/docgen
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	for name, write := range pages {
		page, err := write(root)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, name), page, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "docgen: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// pages are the generated files, by path from the module's root.
var pages = map[string]func(root string) ([]byte, error){
	"docs/configuration.md": configuration,
	"docs/metrics.md":       metrics,
	"docs/backends.md":      backends,
}

// dockercheck reads a Dockerfile or a compose file as Docker does, and fails at what Docker would refuse or warn of.
//
//	dockercheck dockerfile FILE
//	dockercheck compose FILE
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: dockercheck dockerfile|compose FILE"))
	}
	switch os.Args[1] {
	case "dockerfile":
		fail(dockerfile(os.Args[2]))
	case "compose":
		fail(compose(os.Args[2]))
	default:
		fail(fmt.Errorf("unknown kind %s", os.Args[1]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dockerfile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return err
	}
	warnings := 0
	warn := func(rule, _, _, message string, _ []parser.Range) {
		warnings++
		fmt.Fprintf(os.Stderr, "%s: %s\n", rule, message)
	}
	stages, _, err := instructions.Parse(parsed.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		return err
	}
	for _, warning := range parsed.Warnings {
		warnings++
		fmt.Fprintln(os.Stderr, warning.Short)
	}
	for _, stage := range stages {
		fmt.Println("stage", stage.BaseName, len(stage.Commands))
	}
	if warnings > 0 {
		return fmt.Errorf("%d warnings", warnings)
	}
	return nil
}

func compose(path string) error {
	options, err := cli.NewProjectOptions([]string{path})
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		fmt.Println("service", name, service.Image, service.ReadOnly, len(service.Ports), len(service.Volumes))
	}
	return nil
}

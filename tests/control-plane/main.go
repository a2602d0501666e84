// Command holdfast-test-plane is the parts of a real Kubernetes control plane
// in one program, for tests: each part is a subcommand and runs as a process
// of its own, so that a test can stop, hang or kill one of them alone.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// parts names every subcommand and how its command is made.
var parts = map[string]func() *cobra.Command{
	"etcd":                    etcdCommand,
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kubelet":                 kubeletCommand,
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
	// What a real node has in the stand-in's place.
	"kube-scheduler": func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"real-kubelet":   func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

const usage = "usage: %s etcd|kube-apiserver|kube-controller-manager|kubelet|kubectl|kube-scheduler|real-kubelet [flags]\n"

func main() {
	name := filepath.Base(os.Args[0])
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, usage, name)
		os.Exit(2)
	}
	part, known := parts[os.Args[1]]
	if !known {
		fmt.Fprintf(os.Stderr, "%s: unknown part %q\n"+usage, name, os.Args[1], name)
		os.Exit(2)
	}
	// Every part reads os.Args as if it were a program of its own.
	os.Args = append([]string{os.Args[1]}, os.Args[2:]...)
	if strings.HasPrefix(os.Args[0], "kubectl") {
		if err := cli.RunNoErrOutput(part()); err != nil {
			// kubectl has said its error itself.
			os.Exit(1)
		}
		return
	}
	os.Exit(cli.Run(part()))
}

package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	informcore "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// What a pod pretends.
const (
	// ready: it runs and is ready. What pods do that restart always.
	ready = "ready"
	// neverReady: it runs and isn't ready.
	neverReady = "never-ready"
	// crashLoop: its containers end with 1, are started again, and so on.
	crashLoop = "crash-loop"
	// imagePullError: its images can't be pulled.
	imagePullError = "image-pull-error"
	// exitZero: it ends well. What pods do that don't restart always.
	exitZero = "exit-0"
	// exitOne: it ends with 1, and is started again when it wants to be.
	exitOne = "exit-1"
	// unschedulable: there is no node for it.
	unschedulable = "unschedulable"
	// pending: it has a node, that doesn't start it. A claim, a service or an
	// ingress may be so as well: then it gets no volume and no address.
	pending = "pending"
)

const (
	// behaviourKey is the annotation that says what an object pretends.
	behaviourKey = "test.holdfast.dev/behaviour"
	// delayKey is the annotation for how long a pod takes to start, as `3s`.
	delayKey = "test.holdfast.dev/delay"
	// stopDelayKey is the annotation for how long a pod takes to stop.
	stopDelayKey = "test.holdfast.dev/stop-delay"
	// addressKey is the annotation for the address that a pod claims to have, so
	// that a test can answer there. Without it: one that nobody answers at.
	addressKey = "test.holdfast.dev/pod-ip"
	// execKey is the annotation for what programs do that are run in a pod's
	// containers, step by step: `stdout TEXT`, `stderr TEXT`, `exit CODE`, `hang`,
	// with `;` between them. Without it: they end with 0 and say nothing.
	execKey = "test.holdfast.dev/exec"
	// logKey is the annotation for the log of a pod's containers, `hang` for one
	// that never comes.
	logKey = "test.holdfast.dev/log"
	// previousLogKey is the same for what they said before they were started
	// again.
	previousLogKey = "test.holdfast.dev/previous-log"
	// scriptName is the ConfigMap of a namespace that says what its pods
	// pretend that have no annotation: a part of an image's name, or of its
	// digest, to a behaviour.
	scriptName = "test-behaviours"
)

// scriptInformer follows the scripts alone, not every ConfigMap.
func scriptInformer(client kubernetes.Interface, factory informers.SharedInformerFactory) cache.SharedIndexInformer {
	return factory.InformerFor(&core.ConfigMap{}, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
		return informcore.NewFilteredConfigMapInformer(client, meta.NamespaceAll, 0,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
			func(options *meta.ListOptions) {
				options.FieldSelector = fields.OneTermEqualSelector("metadata.name", scriptName).String()
			})
	})
}

// behaviourOf is what a pod pretends: what its annotation says; else what the
// script of its namespace says for one of its images; else what its restart
// policy suggests.
func (k *keeper) behaviourOf(pod *core.Pod) string {
	if told := pod.Annotations[behaviourKey]; told != "" {
		return told
	}
	if script, err := k.scripts.ConfigMaps(pod.Namespace).Get(scriptName); err == nil {
		parts := make([]string, 0, len(script.Data))
		for part := range script.Data {
			parts = append(parts, part)
		}
		sort.Strings(parts)
		for _, part := range parts {
			for _, container := range pod.Spec.Containers {
				if strings.Contains(container.Image, part) {
					return script.Data[part]
				}
			}
		}
	}
	if pod.Spec.RestartPolicy == core.RestartPolicyAlways {
		return ready
	}
	return exitZero
}

// delayOf reads an annotation that is a duration; 0 without it, or when it is
// none.
func delayOf(object meta.Object, key string) time.Duration {
	delay, err := time.ParseDuration(object.GetAnnotations()[key])
	if err != nil {
		return 0
	}
	return delay
}

// step is one thing that a program does.
type step struct {
	word, rest string
}

// stepsOf reads what execKey says.
func stepsOf(script string) []step {
	var steps []step
	for part := range strings.SplitSeq(script, ";") {
		word, rest, _ := strings.Cut(strings.TrimSpace(part), " ")
		if word != "" {
			steps = append(steps, step{word, rest})
		}
	}
	return steps
}

// repeated is how a text says that a part of it comes many times, as
// `{3000*line}` does. A `#` in it is the number, from 1.
var repeated = regexp.MustCompile(`\{(\d+)\*([^{}]*)\}`)

// tell writes a text with its repetitions: more than an annotation may hold.
func tell(to io.Writer, text string) error {
	out := bufio.NewWriter(to)
	at := 0
	for _, found := range repeated.FindAllStringSubmatchIndex(text, -1) {
		_, _ = out.WriteString(text[at:found[0]])
		at = found[1]
		times, err := strconv.Atoi(text[found[2]:found[3]])
		if err != nil {
			return fmt.Errorf("a repetition of %s: %w", text[found[2]:found[3]], err)
		}
		for number := range times {
			_, err := out.WriteString(strings.ReplaceAll(text[found[4]:found[5]], "#", strconv.Itoa(number+1)))
			if err != nil {
				return err
			}
		}
	}
	_, _ = out.WriteString(text[at:])
	return out.Flush()
}

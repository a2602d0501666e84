package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// keepPod gives a pod a node, lets it run or fail as it was told, and takes it
// away when it was deleted.
func (k *keeper) keepPod(ctx context.Context, namespace, name string) (time.Duration, error) {
	pod, err := k.pods.Pods(namespace).Get(name)
	if err != nil {
		return 0, err
	}
	behaviour := k.behaviourOf(pod)
	unbound := k.unboundClaims(pod)
	if pod.Spec.NodeName != "" {
		// The first pod of a claim has its volume made; the volume then has
		// this pod looked at again.
		for _, claim := range unbound {
			k.queue.Add(item{kindClaim, namespace, claim})
		}
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return k.remove(ctx, pod)
	case pod.Spec.NodeName == "" && behaviour != unschedulable:
		return 0, k.bind(ctx, pod)
	case pod.Spec.NodeName != "" && pod.Spec.NodeName != k.node:
		return 0, nil
	case ended(pod):
		return 0, nil
	}
	if len(unbound) > 0 {
		behaviour = pending
	}
	now := time.Now()
	wanted, again := statusOf(pod, behaviour, now)
	if left := delayOf(pod, delayKey) - now.Sub(pod.CreationTimestamp.Time); left > 0 {
		wanted, again = statusOf(pod, pending, now)
		again = sooner(again, left)
	}
	if equality.Semantic.DeepEqual(&pod.Status, wanted) {
		return again, nil
	}
	changed := pod.DeepCopy()
	changed.Status = *wanted
	if _, err := k.client.CoreV1().Pods(namespace).UpdateStatus(ctx, changed, meta.UpdateOptions{}); err != nil {
		return 0, fmt.Errorf("writing the status of the pod %s/%s: %w", namespace, name, err)
	}
	return again, nil
}

// unboundClaims are those that a pod mounts and that have no volume yet.
func (k *keeper) unboundClaims(pod *core.Pod) []string {
	return slices.DeleteFunc(claimsOf(pod), func(name string) bool {
		claim, err := k.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
		return err == nil && claim.Status.Phase == core.ClaimBound
	})
}

// bind does what the scheduler does.
func (k *keeper) bind(ctx context.Context, pod *core.Pod) error {
	binding := &core.Binding{
		ObjectMeta: meta.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     core.ObjectReference{Kind: "Node", Name: k.node},
	}
	if err := k.client.CoreV1().Pods(pod.Namespace).Bind(ctx, binding, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("binding the pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// remove does what the kubelet does when all containers of a deleted pod have
// ended.
func (k *keeper) remove(ctx context.Context, pod *core.Pod) (time.Duration, error) {
	// The deletion's time is the one at which its grace ends.
	asked := pod.DeletionTimestamp.Time
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		asked = asked.Add(-time.Duration(*grace) * time.Second)
	}
	if left := delayOf(pod, stopDelayKey) - time.Since(asked); left > 0 {
		return left, nil
	}
	atOnce := int64(0)
	err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, meta.DeleteOptions{
		GracePeriodSeconds: &atOnce,
		Preconditions:      meta.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil {
		return 0, fmt.Errorf("removing the pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return 0, nil
}

// ended says whether a pod has come to its end: then nothing is written any
// more, whatever its annotations say.
func ended(pod *core.Pod) bool {
	return pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed
}

// claimsOf are the names of the claims that a pod mounts.
func claimsOf(pod *core.Pod) []string {
	var names []string
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, pod.Name+"-"+volume.Name)
		}
	}
	return names
}

// sooner is the shorter of two times, where 0 is never.
func sooner(one, other time.Duration) time.Duration {
	if one == 0 || (other != 0 && other < one) {
		return other
	}
	return one
}

package main

import (
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// longestBackOff is the longest time between two starts of a container that
// fails. The kubelet's is five minutes.
const longestBackOff = 60 * time.Second

// statusOf is the status of a pod that pretends `behaviour`, and when it will
// be another one; 0 for never. What the pod's status says already is kept where
// it still holds, so that an unchanged pod isn't written.
func statusOf(pod *core.Pod, behaviour string, now time.Time) (*core.PodStatus, time.Duration) {
	status := pod.Status.DeepCopy()
	status.ObservedGeneration = pod.Generation
	if behaviour == unschedulable && pod.Spec.NodeName == "" {
		status.Phase = core.PodPending
		condition(status, core.PodScheduled, false, "Unschedulable", "0/1 nodes are available: pretended", now)
		return status, 0
	}
	status.HostIP = nodeAddress
	status.HostIPs = []core.HostIP{{IP: nodeAddress}}
	if status.StartTime == nil {
		status.StartTime = stamp(now)
	}
	started := behaviour != pending && behaviour != imagePullError
	if started && status.PodIP == "" {
		status.PodIP = addressOf(pod)
		status.PodIPs = []core.PodIP{{IP: status.PodIP}}
	}
	status.InitContainerStatuses = initStatuses(pod, started, now)

	again := time.Duration(0)
	statuses := make([]core.ContainerStatus, 0, len(pod.Spec.Containers))
	for _, container := range pod.Spec.Containers {
		one, later := containerStatus(pod, container, behaviour, now)
		statuses = append(statuses, one)
		again = sooner(again, later)
	}
	status.ContainerStatuses = statuses
	status.Phase = phaseOf(pod, behaviour)

	running := status.Phase == core.PodRunning
	allReady := running && behaviour == ready
	reason, message := "", ""
	switch {
	case status.Phase == core.PodSucceeded:
		reason = "PodCompleted"
	case !allReady:
		reason, message = "ContainersNotReady", "containers with unready status: "+namesOf(pod)
	}
	condition(status, core.PodScheduled, true, "", "", now)
	condition(status, core.PodReadyToStartContainers, started && !ends(pod, behaviour), "", "", now)
	condition(status, core.PodInitialized, started, "", "", now)
	condition(status, core.ContainersReady, allReady, reason, message, now)
	condition(status, core.PodReady, allReady, reason, message, now)
	return status, again
}

// ends says whether the pod comes to an end, and isn't started again.
func ends(pod *core.Pod, behaviour string) bool {
	switch pod.Spec.RestartPolicy {
	case core.RestartPolicyNever:
		return behaviour == exitZero || behaviour == exitOne || behaviour == crashLoop
	case core.RestartPolicyOnFailure:
		return behaviour == exitZero
	}
	return false
}

func phaseOf(pod *core.Pod, behaviour string) core.PodPhase {
	switch {
	case behaviour == pending || behaviour == imagePullError || behaviour == unschedulable:
		return core.PodPending
	case ends(pod, behaviour) && behaviour == exitZero:
		return core.PodSucceeded
	case ends(pod, behaviour):
		return core.PodFailed
	}
	return core.PodRunning
}

// containerStatus is the status of one container, and when it will be another.
func containerStatus(
	pod *core.Pod, container core.Container, behaviour string, now time.Time,
) (core.ContainerStatus, time.Duration) {
	before := find(pod.Status.ContainerStatuses, container.Name)
	status := core.ContainerStatus{
		Name:                 container.Name,
		Image:                container.Image,
		RestartCount:         before.RestartCount,
		LastTerminationState: before.LastTerminationState,
	}
	started := false
	status.Started = &started
	exit := int32(0)
	switch behaviour {
	case pending, unschedulable:
		status.State.Waiting = &core.ContainerStateWaiting{Reason: "ContainerCreating"}
		return status, 0
	case imagePullError:
		status.State.Waiting = &core.ContainerStateWaiting{
			Reason:  "ImagePullBackOff",
			Message: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: not found", container.Image),
		}
		return status, 0
	case exitOne, crashLoop:
		exit = 1
	case exitZero:
	default:
		started = true
		status.Ready = behaviour == ready
		status.ImageID, status.ContainerID = imageID(container.Image), containerID(pod, container, before.RestartCount)
		status.State.Running = before.State.Running
		if status.State.Running == nil {
			status.State.Running = &core.ContainerStateRunning{StartedAt: *stamp(now)}
			if before.State.Waiting != nil && before.LastTerminationState.Terminated != nil {
				status.RestartCount++
			}
		}
		return status, 0
	}
	return endedContainer(pod, container, behaviour, exit, status, before, now)
}

// endedContainer is the status of a container that ended, for good or until it
// is started again.
func endedContainer(
	pod *core.Pod, container core.Container, behaviour string, exit int32,
	status, before core.ContainerStatus, now time.Time,
) (core.ContainerStatus, time.Duration) {
	status.ImageID, status.ContainerID = imageID(container.Image), containerID(pod, container, before.RestartCount)
	reason := "Completed"
	if exit != 0 {
		reason = "Error"
	}
	end := &core.ContainerStateTerminated{
		ExitCode: exit, Reason: reason, StartedAt: *stamp(now), FinishedAt: *stamp(now),
		ContainerID: status.ContainerID,
	}
	if ends(pod, behaviour) {
		status.State.Terminated = end
		return status, 0
	}
	wait := backOff(before.RestartCount)
	if last := before.LastTerminationState.Terminated; last != nil && before.State.Waiting != nil {
		if left := wait - now.Sub(last.FinishedAt.Time); left > 0 {
			status.State.Waiting = before.State.Waiting
			return status, left
		}
	}
	status.RestartCount++
	status.LastTerminationState.Terminated = end
	status.State.Waiting = &core.ContainerStateWaiting{
		Reason: "CrashLoopBackOff",
		Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
			backOff(status.RestartCount), container.Name, pod.Name, pod.Namespace, pod.UID),
	}
	return status, backOff(status.RestartCount)
}

// backOff is how long a container waits that ended so many times.
func backOff(restarts int32) time.Duration {
	if restarts >= 6 {
		return longestBackOff
	}
	return time.Second << restarts
}

// initStatuses are those of the containers that run before the others: they
// ended well, or, if they go on beside them, run.
func initStatuses(pod *core.Pod, started bool, now time.Time) []core.ContainerStatus {
	var statuses []core.ContainerStatus
	for _, container := range pod.Spec.InitContainers {
		before := find(pod.Status.InitContainerStatuses, container.Name)
		beside := container.RestartPolicy != nil && *container.RestartPolicy == core.ContainerRestartPolicyAlways
		status := core.ContainerStatus{Name: container.Name, Image: container.Image, Ready: started}
		status.Started = &beside
		switch {
		case !started:
			status.Started = new(bool)
			status.State.Waiting = &core.ContainerStateWaiting{Reason: "PodInitializing"}
		case before.State.Running != nil || before.State.Terminated != nil:
			status = before
		case beside:
			status.State.Running = &core.ContainerStateRunning{StartedAt: *stamp(now)}
		default:
			status.State.Terminated = &core.ContainerStateTerminated{
				Reason: "Completed", StartedAt: *stamp(now), FinishedAt: *stamp(now),
				ContainerID: containerID(pod, container, 0),
			}
		}
		if started {
			status.ImageID, status.ContainerID = imageID(container.Image), containerID(pod, container, 0)
		}
		statuses = append(statuses, status)
	}
	return statuses
}

// condition sets a condition, and keeps its time when its value is the same.
func condition(
	status *core.PodStatus, kind core.PodConditionType, holds bool, reason, message string, now time.Time,
) {
	value := core.ConditionFalse
	if holds {
		value, reason, message = core.ConditionTrue, "", ""
	}
	for i := range status.Conditions {
		one := &status.Conditions[i]
		if one.Type != kind {
			continue
		}
		if one.Status != value {
			one.LastTransitionTime = *stamp(now)
		}
		one.Status, one.Reason, one.Message = value, reason, message
		one.ObservedGeneration = status.ObservedGeneration
		return
	}
	status.Conditions = append(status.Conditions, core.PodCondition{
		Type: kind, Status: value, Reason: reason, Message: message,
		ObservedGeneration: status.ObservedGeneration, LastTransitionTime: *stamp(now),
	})
}

// stamp is a time as the API server keeps it: in whole seconds.
func stamp(now time.Time) *meta.Time {
	return &meta.Time{Time: now.Truncate(time.Second)}
}

func find(statuses []core.ContainerStatus, name string) core.ContainerStatus {
	for _, status := range statuses {
		if status.Name == name {
			return status
		}
	}
	return core.ContainerStatus{}
}

func namesOf(pod *core.Pod) string {
	var names []string
	for _, container := range pod.Spec.Containers {
		names = append(names, container.Name)
	}
	return "[" + strings.Join(names, " ") + "]"
}

// imageID names the image by digest: by its own, or by one that is made from
// its name.
func imageID(image string) string {
	if strings.Contains(image, "@sha256:") {
		return image
	}
	return fmt.Sprintf("%s@sha256:%x", image, sha256.Sum256([]byte(image)))
}

func containerID(pod *core.Pod, container core.Container, restarts int32) string {
	text := fmt.Sprintf("%s/%s/%d", pod.UID, container.Name, restarts)
	return fmt.Sprintf("containerd://%x", sha256.Sum256([]byte(text)))
}

// addressOf is the address that a pod was told to claim; else one in k3s's
// network of pods, made from the pod's UID.
func addressOf(pod *core.Pod) string {
	if told := pod.Annotations[addressKey]; told != "" {
		return told
	}
	if pod.Spec.HostNetwork {
		return nodeAddress
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(pod.UID))
	sum := hash.Sum32()
	return fmt.Sprintf("10.42.%d.%d", sum>>8&0xff, sum&0xfd|1)
}

package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcdStart is how long etcd may take until it serves.
const etcdStart = 60 * time.Second

// etcdCommand runs one etcd member alone, without TLS, on the addresses given.
//
// It doesn't fsync: a test's store needn't survive a power cut, and a test
// must not wait for a disk.
func etcdCommand() *cobra.Command {
	var dir, client, peer string
	command := &cobra.Command{
		Use:   "etcd",
		Short: "one etcd member for tests",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return runEtcd(dir, client, peer)
		},
	}
	command.Flags().StringVar(&dir, "data-dir", "", "where the store lies")
	command.Flags().StringVar(&client, "listen-client-url", "", "where clients are served")
	command.Flags().StringVar(&peer, "listen-peer-url", "", "where peers would be served")
	for _, flag := range []string{"data-dir", "listen-client-url", "listen-peer-url"} {
		if err := command.MarkFlagRequired(flag); err != nil {
			panic(err)
		}
	}
	return command
}

func runEtcd(dir, client, peer string) error {
	clientURL, err := url.Parse(client)
	if err != nil {
		return fmt.Errorf("--listen-client-url %q: %w", client, err)
	}
	peerURL, err := url.Parse(peer)
	if err != nil {
		return fmt.Errorf("--listen-peer-url %q: %w", peer, err)
	}
	config := embed.NewConfig()
	config.Dir = dir
	config.ListenClientUrls = []url.URL{*clientURL}
	config.AdvertiseClientUrls = []url.URL{*clientURL}
	config.ListenPeerUrls = []url.URL{*peerURL}
	config.AdvertisePeerUrls = []url.URL{*peerURL}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "error"
	config.LogOutputs = []string{"stderr"}
	config.UnsafeNoFsync = true

	member, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("starting etcd in %s: %w", dir, err)
	}
	defer member.Close()
	select {
	case <-member.Server.ReadyNotify():
	case <-time.After(etcdStart):
		return fmt.Errorf("etcd in %s did not serve within %s", dir, etcdStart)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-stop:
		return nil
	case err := <-member.Err():
		return fmt.Errorf("etcd in %s stopped by itself: %w", dir, err)
	}
}

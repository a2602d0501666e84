// A gRPC server for tests of probes: it listens on PORT (50051) without TLS, and says of itself what gRPC's own health service
// says. The server as a whole and the service `well` are SERVING, `ill` is NOT_SERVING, no other is known. With HEALTH=none
// it has no health service.
package main

import (
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "50051"
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Fatalf("listen on port %s: %v", port, err)
	}
	server := grpc.NewServer()
	if os.Getenv("HEALTH") != "none" {
		service := health.NewServer()
		service.SetServingStatus("well", grpc_health_v1.HealthCheckResponse_SERVING)
		service.SetServingStatus("ill", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		grpc_health_v1.RegisterHealthServer(server, service)
	}
	// As the first process of a container it ends by a signal only if it asks for it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-signals
		os.Exit(0)
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatalf("serve: %v", err)
	}
}

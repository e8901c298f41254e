// Drives containerd's own suite for snapshotters against ours, through containerd's own client for proxy plugins: each
// case against a server of its own over a fresh root.
package snapshots_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

// startServer returns once the server listens; closing what it returns ends the server, as does our own end.
func startServer(root, socket string) (*exec.Cmd, io.Closer, error) {
	server := exec.Command(os.Getenv("SNAPSHOT_SERVER"), root, socket)
	server.Stderr = os.Stderr
	output, err := server.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	input, err := server.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
		input.Close()
		server.Wait()
		return nil, nil, fmt.Errorf("server for %s: said %q (%v)", root, line, err)
	}
	return server, input, nil
}

func newSnapshotter(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(filepath.Dir(root), "s")
	server, input, err := startServer(root, socket)
	if err != nil {
		return nil, nil, err
	}
	connection, err := grpc.Dial(socket, grpc.WithInsecure(),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		input.Close()
		server.Wait()
		return nil, nil, err
	}
	stop := func() error {
		connection.Close()
		input.Close()
		return server.Wait()
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "banyan"), stop, nil
}

func TestSnapshotter(t *testing.T) {
	testsuite.SnapshotterSuite(t, "banyan", newSnapshotter)
}

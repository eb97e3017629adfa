// Command guest is what runs in the sandboxes of resident's tests.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "exit": // at once
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "copy": // input to output, then say how much there was, and what the guest sees
		n, _ := io.Copy(os.Stdout, os.Stdin)
		var seen syscall.Sysinfo_t
		_ = syscall.Sysinfo(&seen)
		fmt.Fprintf(os.Stderr, "%d bytes, %d processors, %d MiB", n, runtime.NumCPU(), seen.Totalram>>20)
	case "stay": // until SIGTERM
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		fmt.Println("ready")
		<-told
		os.Exit(3)
	case "eat":
		for all := [][]byte{}; ; {
			piece := make([]byte, 1<<20)
			for i := range piece {
				piece[i] = byte(i)
			}
			all = append(all, piece)
		}
	}
}

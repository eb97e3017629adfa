// Command echo copies its input to its output, says so on the other stream and
// ends with the code it is given.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
)

func main() {
	n, _ := io.Copy(os.Stdout, os.Stdin)
	fmt.Fprintf(os.Stderr, "%d bytes", n)
	code, _ := strconv.Atoi(os.Args[1])
	os.Exit(code)
}

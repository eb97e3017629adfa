// Package sandboxtest is what every worker.Runtime must pass. A sandbox that
// passes Exercise may stand in for any other in the tests of a worker.
//
// The programs of the suite are one-line shell scripts, run as
// ["sh", "-c", SCRIPT], and use nothing but the words below, so that a
// scripted sandbox can interpret them. A script is one or more commands joined
// by "; "; its status is that of the last command, 0 for most. Words are
// separated by single blanks; a word in single quotes may hold blanks.
//
//	exit N                      end with status N
//	kill -9 $$                  end by SIGKILL; also -SEGV and -TERM
//	echo WORDS                  the words and a newline, to standard output
//	printf 'TEXT'               TEXT with the escapes \n and \NNN (octal)
//	cat                         standard input to standard output
//	cat FILE...                 files; one that is missing costs a line on
//	                            standard error and makes the status 1
//	cat /dev/zero               zero bytes without end
//	head -c N /dev/zero         N zero bytes
//	sleep N                     wait N seconds, which may be a fraction
//	env                         the environment, NAME=VALUE a line
//	pwd                         the directory the step started in
//	id -u                       the number of the user: 1000
//	mkdir -p DIR                make a directory and its parents
//	stat -c %a FILE             the file's mode in octal: 644
//	while :; do :; done         use processor time without end
//
// A command may end in "> FILE" (make or empty the file, write there instead)
// or ">&2" (write to standard error instead). Names of files are relative to
// the step's directory, or absolute below /work and /tmp.
package sandboxtest

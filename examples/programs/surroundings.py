# Shows its environment: the image's, the job's, the trace's, nothing of the host's.
import os

expected = {"PATH", "LANG", "HOME", "PWD", "TRACEPARENT", "GREETING", "GPG_KEY"}
for name in sorted(os.environ):
    print(name, "=", os.environ[name])
strange = [n for n in os.environ if n not in expected and not n.startswith("PYTHON")]
raise SystemExit("unexpected: " + " ".join(strange) if strange else 0)

#!/usr/bin/env bash
# Installs what the tests need and runs all of them.
#
#   scripts/test.sh                 all tests
#   scripts/test.sh --long          with far more random histories, kills and crashes, and a short soak: hours, for a release
#   scripts/test.sh --no-setup      without looking whether something must be installed
#   scripts/test.sh -- NAME …       what follows goes to `cargo test`: one test, one package
#
# It ends with "N passed, N failed" and fails as well when a test was ignored: a test that isn't run is none. Tests
# that this machine lacks something for are counted as skipped, not as passed, and named; with CI set, each of them
# fails.
# A test that fails once is a bug until its cause is known, and most of them are never run again: not what is about
# crashes, kills, disks, the model or memory, and nothing that runs by itself. Only where a real server, registry,
# podman, API server or kubelet takes part, whose own time limits a busy machine may exceed, are up to three tests that
# failed run once more, alone. Those that pass then are told as "flaky: NAME", and counted in a line of their own; the two
# outputs stay in flaky/ beside cargo's results. Each of them is to be explained, and mended.
# Where the results are kept: CARGO_TARGET_DIR, or with CI=true a cache outside of the clone (scripts/env.sh).
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"
cd "$HOLDFAST_ROOT"

setup=true
soak=0
cargo_args=(--workspace)
while (($#)); do
  case $1 in
    --long)
      # Read by the tests that take random steps, or a share of all crashes; proptest reads its own.
      export HOLDFAST_LONG=1 PROPTEST_CASES=${PROPTEST_CASES:-20000}
      export HOLDFAST_MODEL_CASES=${HOLDFAST_MODEL_CASES:-100000} HOLDFAST_KILLS=${HOLDFAST_KILLS:-3000}
      export HOLDFAST_PODMAN_KILLS=${HOLDFAST_PODMAN_KILLS:-1000}
      soak=${HOLDFAST_SOAK_MINUTES:-2}
      ;;
    --no-setup) setup=false ;;
    --) shift; cargo_args+=("$@"); break ;;
    *) die "unknown argument $1; usage: $0 [--long] [--no-setup] [-- ARGUMENTS OF cargo test]" ;;
  esac
  shift
done

if $setup; then scripts/setup-tests.sh; fi

# Tests are told apart from the machine that they run on: nothing of the user's own git is read.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1

log=$(mktemp)
# A test that is skipped writes a line to it: `skipped: TEST: REASON`.
HOLDFAST_SKIPPED=$(mktemp)
export HOLDFAST_SKIPPED
trap 'rm -f "$log" "$HOLDFAST_SKIPPED"' EXIT
status=0
# The fault points are in, so that the crash tests can name them.
cargo test --locked --no-fail-fast --features holdfast/faults "${cargo_args[@]}" >"$log" 2>&1 &
cargo=$!
# Not a pipe: whatever process a test might leave behind would hold it open, and this would wait for that.
tail --pid="$cargo" --lines=+1 --follow "$log"
wait "$cargo" || status=$?

# Adds up one column of cargo's "test result:" lines.
sum() { sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'; }

# One line for each test that failed: what cargo calls the program that it is in, a tab, its name. Nothing where a
# program failed without telling by which tests: no second run excuses that.
failed_tests() {
  awk '
    /^     Running |^   Doc-tests / { names = "" }
    /^failures:$/ { names = ""; n = 0 }
    /^    [^ ]+$/ { names = names $1 "\n"; n++ }
    /^test result: FAILED\./ {
      match($0, /[0-9]+ failed/)
      if (substr($0, RSTART, RLENGTH) + 0 == n) programs[++count] = names
    }
    /^test result: / { names = ""; n = 0 }
    # At the end, in the same order.
    /^error: [0-9]+ targets? failed:$/ { listed = 1; next }
    listed && /^    `.*`$/ { targets[++failed] = substr($0, 6, length($0) - 6) }
    END {
      for (i = 1; i <= count && count == failed; i++) {
        n = split(programs[i], tests, "\n")
        for (j = 1; j < n; j++) print targets[i] "\t" tests[j]
      }
    }' "$log"
}

# The tests in which something takes part that isn't ours: whole programs, and of those of which most tests run by
# themselves only the modules with a real server (nginx with git-http-backend).
RERUN_PROGRAMS='^-p holdfast --test `?(registry|image_archives|on_podman|on_kubernetes)`?$'
RERUN_MODULES='^-p holdfast --test `?(git_source`? (hostile|metered|parts|remote)|on_a_box`? (hostile|metered|network))::'
# What is never run again in these either: its cause is ours, however rarely it shows.
NEVER_AGAIN='crash|kill|dies|died|disk|full|power|torn|damage|memory|model|room|budget'

# Reads what failed_tests gives; whether each of them may be run once more.
may_run_again() {
  local target test
  while IFS=$'\t' read -r target test; do
    if ! [[ $target =~ $RERUN_PROGRAMS || "$target $test" =~ $RERUN_MODULES ]] || [[ $test =~ $NEVER_AGAIN ]]; then
      say "$test ($target) failed, and is not run again"
      return 1
    fi
  done
}

# Runs those once more, each alone; gives whether all of them pass then.
pass_alone() {
  local target test kept
  while IFS=$'\t' read -r target test; do
    say "once more, alone: $test ($target)"
    kept=${CARGO_TARGET_DIR:-target}/flaky/${test//[^a-zA-Z0-9_]/-}
    mkdir -p "$kept"
    awk -v first="---- $test stdout ----" '/^---- .* stdout ----$|^failures:$/ { on = $0 == first } on' "$log" >"$kept/first"
    # With the whole workspace, as before: other packages would mean other features, and compiling all again.
    # shellcheck disable=SC2086 # it is several words
    if cargo test --locked --features holdfast/faults --workspace ${target#-p * } -- --exact "$test" \
      </dev/null >"$kept/second" 2>&1 && grep -q '^test result: ok\. 1 passed' "$kept/second"; then
      flaky+=("$test")
    else
      cat "$kept/second"
      return 1
    fi
  done
}

flaky=()
if ((status != 0)); then
  again=$(failed_tests)
  count=$(grep -c . <<<"$again" || true)
  if ((count > 3)); then
    say "$count tests failed: too many for chance, so none of them is run again"
  elif ((count > 0)) && may_run_again <<<"$again" && pass_alone <<<"$again"; then
    status=0
  fi
fi

if [[ $soak != 0 ]]; then
  say "soaking the agent for $soak minutes"
  # It says itself what grew.
  scripts/soak.sh "$soak" --binary "${CARGO_TARGET_DIR:-target}/debug/holdfast" >&2 || status=1
fi

passed=$(($(sum passed) + ${#flaky[@]})) failed=$(($(sum failed) - ${#flaky[@]})) ignored=$(sum ignored)
skipped=$(grep -c '^skipped: ' "$HOLDFAST_SKIPPED" || true)
# Cargo knows nothing of them: for it they passed.
passed=$((passed - skipped))

if ((ignored > 0)); then
  say "$ignored tests were ignored: run them or remove them"
  status=1
fi
if ((skipped > 0)); then
  sort "$HOLDFAST_SKIPPED" >&2
  say "$skipped skipped"
  # They fail by themselves then; this is for one that doesn't.
  [[ -z ${CI:-} ]] || status=1
fi
if ((passed == 0)); then
  say "no test was run"
  status=1
fi
if ((status != 0 && failed == 0 && ignored == 0 && skipped == 0)); then
  say "cargo test or the soak failed beside its tests: see the first \"error\" above"
fi
if ((${#flaky[@]})); then
  printf 'flaky: %s\n' "${flaky[@]}"
  echo "${#flaky[@]} flaky"
fi
echo "$passed passed, $failed failed"
exit "$status"

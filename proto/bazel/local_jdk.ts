/** The shell part of `<server_javabase>/bin/java`, which starts a real JDK where necessary. */

/** Deno 2.9.6 reserves between 32 and 48 million kB when it starts. */
const ADDRESS_SPACE_KB = 48_000_000;

/**
 * A file beside `bin` in the directory of `--server_javabase`. In a session the null device is mounted over it, so that
 * bin/java knows where it runs, even in the clean environment of a test.
 */
export const SESSION_MARK = "rbs-session";

/**
 * The first part of bin/java: executes the real JDK if Bazel's client (`--batch`, or no workspace) or RBS itself (in a
 * session) needs it. Otherwise execution continues after it.
 */
export const LOCAL_JDK = `\
batch= install_base= default_javabase= output_base=
for word do
  case $word in
    --batch) batch=1 ;;
    --output_base=?*) output_base=\${word#*=} ;;
    --install_base=?*) install_base=\${install_base:-"\${word#*=}"} ;;
    --default_system_javabase=?*) default_javabase=\${default_javabase:-"\${word#*=}"} ;;
  esac
done
# One fork for all of them. The first is of address space, of which Deno's engine reserves more than it will use.
limits_are() {
  memory=$1
  shift
  export RBS_SHELL_LIMITS="$*"
}
limits_are $(ulimit -v; ulimit -Sc; ulimit -Hc; ulimit -Ss; ulimit -Hs; ulimit -Sn; ulimit -Hn; umask)
# What the file beside is covered by, whatever the environment.
if [ -c "\${0%/*}/../${SESSION_MARK}" ]; then RBS_IN_SESSION=1; fi
here=
if [ -z "$batch\${RBS_IN_SESSION-}" ] && [ "$memory" != unlimited ] && [ "$memory" -lt ${ADDRESS_SPACE_KB} ]; then
  if [ "\${RBS_FALLBACK-}" = local ]; then
    here=1
    echo "rbs: \\\`ulimit -v $memory\\\` is too little for RBS, which needs ${ADDRESS_SPACE_KB} kB of address space; RBS_FALLBACK=local: a server on this machine." >&2
    # Links into a session's storage, which is no place for a server of this machine; and what stood there before.
    for name in execroot external command.log command.profile.gz java.log sandbox; do
      if [ -L "$output_base/$name" ]; then rm -f -- "$output_base/$name"; fi
    done
    for name in execroot external command.log command.profile.gz java.log sandbox action_cache; do
      if [ -e "$output_base/$name.before-rbs" ] && ! [ -e "$output_base/$name" ]; then
        mv -- "$output_base/$name.before-rbs" "$output_base/$name"
      fi
    done
  else
    echo "rbs: \\\`ulimit -v $memory\\\` is too little for RBS, which needs ${ADDRESS_SPACE_KB} kB of address space: raise it, or set RBS_FALLBACK=local to build on this machine meanwhile." >&2
    exit 36
  fi
fi
if [ -n "$batch$here\${RBS_IN_SESSION-}" ]; then
  is_jdk() { [ -f "$1" ] && [ -x "$1" ] && ! [ "$1" -ef "$0" ]; }
  java=\${install_base:+"$install_base/embedded_tools/jdk/bin/java"}
  is_jdk "$java" || java=\${default_javabase:+"$default_javabase/bin/java"}
  is_jdk "$java" || java=\${JAVA_HOME:+"$JAVA_HOME/bin/java"}
  if ! is_jdk "$java"; then
    java= IFS=:
    set -f
    for folder in \${PATH-}; do
      if is_jdk "$folder/java"; then java=$folder/java && break; fi
    done
    unset IFS
    set +f
  fi
  if [ -z "$java" ]; then
    echo "rbs: --batch, a command outside of a workspace, and a session's own server need a real JDK, but there is none in Bazel's install base, JAVA_HOME or PATH: install one, or set JAVA_HOME." >&2
    exit 36
  fi
  if [ -n "$batch" ]; then echo "rbs: --batch (or no workspace): running the local JDK $java, not RBS." >&2; fi
  dropped=
  for word do
    shift
    case $dropped$word in
      --server_javabase=*) dropped=1 ;;
      *) set -- "$@" "$word" ;;
    esac
  done
  exec "$java" "$@"
fi
`;

/** The whole bin/java where only a session's own servers are started. */
export const SESSIONS_JAVA = `#!/bin/sh\nRBS_IN_SESSION=1\n${LOCAL_JDK}`;

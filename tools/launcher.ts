/**
 * One-file launchers: a shell program and a JavaScript bundle in the same file, executable as it is. The shell sees the
 * bundle behind its `exec`, where it never gets; JavaScript sees the shell program as a comment.
 *
 * What stands in the shell part is paid at each start, so it forks nothing: builtins only.
 */
import { IMPORT_MAP } from "./packages.ts";
import { LOCAL_JDK } from "../proto/bazel/local_jdk.ts";
import { byKind, type Program, v8Option } from "./permissions.ts";

/** Where the things are that a launcher names. Absolute paths. */
export interface Places {
  /** The deno executable that compiled it. Others are looked for when it is gone. */
  deno: string;
  /** Where Deno keeps the code cache, if the user of the launcher may write there. */
  cache: string;
}

/** Variables of the user's environment that change what Deno and its node: modules do. They are not meant for us. */
const FOREIGN_VARIABLES = `
  DENO_AUDIT_PERMISSIONS DENO_AUTH_TOKENS DENO_AUTO_SERVE DENO_CACHE_DB_MODE DENO_CERT DENO_COMPAT DENO_CONDITIONS
  DENO_COVERAGE_DIR DENO_EMIT_CACHE_MODE DENO_JOBS DENO_LOG DENO_NODE_TRACE_EVENT_CATEGORIES DENO_NODE_USE_OPENSSL_CA
  DENO_NO_PACKAGE_JSON DENO_NO_PROMPT DENO_SERVE_ADDRESS DENO_TLS_CA_STORE DENO_TRACE_PERMISSIONS
  DENO_TRUST_PROXY_HEADERS DENO_UNSTABLE_CONTROL_SOCK DENO_V8_FLAGS
  NODE_CHANNEL_FD NODE_CLUSTER_SCHED_POLICY NODE_DEBUG NODE_DEBUG_NATIVE NODE_EXTRA_CA_CERTS NODE_ICU_DATA NODE_NO_WARNINGS
  NODE_OPTIONS NODE_PATH NODE_TLS_REJECT_UNAUTHORIZED NODE_UNIQUE_ID NODE_USE_ENV_PROXY NODE_USE_SYSTEM_CA
  NODE_V8_COVERAGE OTEL_DENO`.trim().replaceAll(/\s+/g, " ");

/** `text` as one word of a shell program that stands in a JavaScript comment. */
export function shellWord(text: string): string {
  return "'" + text.replaceAll("'", `'"'"'`).replaceAll("*/", "*''/") + "'";
}

/**
 * A one-file launcher.
 *
 * @param bundle JavaScript without imports, but for those of the program's packages.
 * @param prelude A shell program that runs first; see LOCAL_JDK.
 */
export function launcherFile(program: Program, bundle: string, places: Places, prelude = ""): string {
  const shell = `${prelude}${environment(program, places)}${permissions(program)}exec "$deno" run ${
    v8Option(program).map((o) => o + " ").join("")
  }--quiet --ext=js --no-config --no-remote ${program.packages ? "" : "--no-npm "}"$@"\n`;
  if (shell.includes("*/")) throw new Error(`The shell part of ${program.name}'s launcher would end its comment.`);
  return `#!/bin/sh\n":" /*\n${shell}*/;\n${bundle}`;
}

/**
 * bin/java when the proxy is a compiled program.
 *
 * @param binary Its absolute path. When it is gone (dist/ was moved), the one beside bin/java is meant.
 */
export function compiledJavaFile(binary: string): string {
  return `#!/bin/sh
${LOCAL_JDK}${cleanEnvironment}proxy=${shellWord(binary)}
if ! [ -x "$proxy" ]; then proxy=\${0%/*}/\${proxy##*/}; fi
exec "$proxy" "$@"
`;
}

const cleanEnvironment = `unset ${FOREIGN_VARIABLES}\n`;

function environment({ keepsUserEnvironment }: Program, { deno, cache }: Places): string {
  const kept = keepsUserEnvironment
    ? `${FOREIGN_VARIABLES} DENO_DIR DENO_NO_UPDATE_CHECK`.split(" ").map((name) =>
      `[ -z "\${${name}+x}" ] || export RBS_USER_ENV_${name}="$${name}"\n`
    ).join("")
    : "";
  return `\
${kept}${cleanEnvironment}export DENO_NO_UPDATE_CHECK=1 DENO_DIR=${shellWord(cache)}
if ! [ -w "$DENO_DIR" ]; then
  if [ -n "\${XDG_CACHE_HOME:-\${HOME-}}" ]; then DENO_DIR=\${XDG_CACHE_HOME:-$HOME/.cache}/rbs/deno; else unset DENO_DIR; fi
fi
deno=${shellWord(deno)}
if ! [ -x "$deno" ]; then
  deno=$(command -v deno || echo "\${HOME-}/.deno/bin/deno")
  if ! [ -x "$deno" ]; then deno=/usr/local/bin/deno; fi
  if ! [ -x "$deno" ]; then
    echo "rbs: Deno is neither at "${
    shellWord(deno)
  }" any more nor on the PATH: install it, or run deno task compile again." >&2
    exit 36
  fi
fi
`;
}

/** Puts the permission flags and `$0` before the program's arguments. */
function permissions(program: Program): string {
  const kinds = byKind(program, (p) => p.of, program.permissions.filter(({ when }) => when === undefined));
  const paths = [...Object.keys(program.variables), ...program.prepared ?? []];
  const lines = [`set -- --no-prompt ${kinds.get("env") === "all" ? "" : "--ignore-env "}"$0" "$@"`];
  let network = "";
  for (const [kind, values] of kinds) {
    if (values === "all") {
      lines.push(`set -- --allow-${kind} "$@"`);
      continue;
    }
    const fixed: string[] = [];
    for (const value of values) {
      const [, name, below] = /^\$(\w+)(.*)$/.exec(value) ?? [];
      if (!name) fixed.push(value);
      else if (!paths.includes(name)) throw new Error(`${program.name}'s launcher does not set $${name}.`);
      else if (program.variables[name]?.is === "network") network = name;
      else if (program.variables[name]?.is === "address") {
        lines.push(`case $${name} in`, `  "") ;;`, `  *:*) set -- "--allow-${kind}=[$${name}]" "$@" ;;`);
        lines.push(`  *) set -- "--allow-${kind}=$${name}" "$@" ;;`, "esac");
      } else {lines.push(
          `if [ -n "$${name}" ]; then grantable "$${name}"${below}; set -- "--allow-${kind}=$path" "$@"; fi`,
        );}
    }
    const flag = `set -- ${shellWord(`--allow-${kind}=${fixed.join(",")}`)} "$@"`;
    if (kind === "net" && network) {
      // A list of them, with commas, is elsewhere if one of them is.
      lines.push(`elsewhere= IFS=,`, "set -f", `for peer in $${network}; do`);
      lines.push(`  case $peer in "" | localhost:* | 127.* | "[::1]:"*) ;; *) elsewhere=1 ;; esac`, "done");
      lines.push("unset IFS", "set +f");
      lines.push(`if [ -n "$elsewhere" ]; then set -- --allow-net "$@"; else ${flag}; fi`);
    } else if (fixed.length > 0) {
      lines.push(flag);
    }
  }
  for (const { allow, of, when } of program.permissions) {
    if (when === undefined) continue;
    if (of === "all" || of.some((value) => value.startsWith("$"))) {
      throw new Error(`${program.name}'s launcher cannot grant ${allow} at some starts only.`);
    }
    lines.push(`if [ -n "$${when}" ]; then set -- ${shellWord(`--allow-${allow}=${of.join(",")}`)} "$@"; fi`);
  }
  if (program.packages) {
    const { folder } = program.packages;
    const map = `$${folder}/${IMPORT_MAP}`;
    lines.push(
      `if [ -n "$${folder}" ] && [ -f "${map}" ]; then set -- --node-modules-dir=manual "--import-map=${map}" "$@"`,
      `else set -- --no-npm "$@"; fi`,
    );
  }
  return variables(program) + GRANTABLE + lines.join("\n") + "\n";
}

/** Deno splits paths at commas and knows no escape for them (2.9.6), so the nearest folder above is granted instead. */
const GRANTABLE = `\
grantable() {
  path=$1
  case $path in
    *,*)
      path=\${path%%,*}
      case $path in /*) ;; *) path=./$path ;; esac
      path=\${path%/*}/ ;;
  esac
}
`;

function variables({ variables: all, prepare = "", prepared = [] }: Program): string {
  const names = [...Object.keys(all), ...prepared];
  if (names.length === 0) return "";
  const lines = [`${names.map((name) => `${name}=`).join(" ")} before=`];
  const joined: string[] = [];
  const separate: string[] = [];
  for (const [name, { options = [] }] of Object.entries(all)) {
    for (const option of options) {
      joined.push(`    ${option}=?*) ${name}=\${${name}:-"\${word#*=}"} ;;`);
      separate.push(`    ${option}) ${name}=\${${name}:-"$word"} ;;`);
    }
  }
  if (joined.length > 0) {
    lines.push("for word do", "  case $before in", ...separate, "  esac", "  case $word in", ...joined, "  esac");
    lines.push("  before=$word", "done");
  }
  for (const [name, { otherwise }] of Object.entries(all)) {
    if (otherwise) lines.push(`[ -n "$${name}" ] || ${name}=${otherwise}`);
  }
  return lines.join("\n") + "\n" + prepare;
}

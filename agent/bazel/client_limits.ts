import type { ClientShell } from "../../proto/bazel/client_shell.ts";
import { quote } from "../namespace/shell.ts";

/**
 * The start of a script that sets limits, umask and locale of the client's shell for what it executes, as far as the
 * agent may.
 */
export function inheritance({ limits, umask, locale }: ClientShell = { limits: [] }): string {
  return [
    ...limits.map(({ letter, soft, hard }) =>
      // If the agent itself has less, as much as it has.
      `ulimit -S -${letter} ${soft} 2>/dev/null || ulimit -S -${letter} "$(ulimit -H -${letter})"
ulimit -H -${letter} ${hard} 2>/dev/null || :`
    ),
    // Without the owner's own rights no server could start.
    umask === undefined ? "" : `umask ${(parseInt(umask, 8) & 0o077).toString(8).padStart(4, "0")}`,
    locale ? clientLocale(locale) : BYTES,
  ].join("\n");
}

/**
 * As in Bazel 4.2.3 `blaze.cc`, PrepareEnvironmentForJvm: file names are bytes, which only this locale preserves for
 * Java.
 */
const BYTES = `if [[ $(LC_ALL=en_US.ISO-8859-1 locale charmap 2>/dev/null) == ISO-8859-1 ]]; then
  export LANG=en_US.ISO-8859-1 LANGUAGE=en_US.ISO-8859-1 LC_ALL=en_US.ISO-8859-1 LC_CTYPE=en_US.ISO-8859-1
fi`;

/**
 * The client has already chosen for its own machine: Latin-1, or UTF-8 in newer versions. If the session's machine
 * lacks the locale, another of the same kind is used.
 */
function clientLocale(locale: Readonly<Record<string, string>>): string {
  const kind = (locale.LC_ALL || locale.LC_CTYPE || locale.LANG || "").toUpperCase();
  const others = /ISO-?8859-?1\b/.test(kind) ? ["en_US.ISO-8859-1", "C.UTF-8"] : /UTF-?8/.test(kind) ? ["C.UTF-8"] : [];
  return `unset LANG LANGUAGE \${!LC_*}
${Object.entries(locale).map(([name, value]) => `export ${name}=${quote(value)}`).join("\n")}
for other in ${others.join(" ")}; do
  [[ $(locale 2>&1 >/dev/null) ]] || break
  export LC_ALL=$other
done`;
}

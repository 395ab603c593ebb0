/**
 * Whether a name in an output base is the server's log (`java.log`, and the file that it links to), or a profile that
 * Bazel writes by default (`command.profile.gz`, `command-ID.profile.gz`).
 */
export function isServerLog(name: string): boolean {
  return /^(java\.log(\.[\w.@+-]+)?|command(-[0-9a-f-]{1,64})?\.profile\.gz)$/.test(name);
}

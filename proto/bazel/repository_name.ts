/**
 * Whether a name in `external` of an output base is a repository's. The other names hold a server's records of them
 * (`@NAME.marker`, `NAME.recorded_inputs`), which only that server uses.
 */
export function isRepositoryName(name: string): boolean {
  return /^[A-Za-z0-9_+][\w.~+-]*$/.test(name) && !/\.(marker|recorded_inputs)$/i.test(name);
}

/**
 * The steps of one part of a store that change its tables, by schema version. A database has one version for all parts,
 * starting at 1.
 */
export type Migrations<Step> = Readonly<Record<number, Step>>;

/**
 * The steps of all parts for each version, from 1 on, in the order of the parts. Throws a TypeError, for a bug, if a
 * version has no step.
 */
export function stepsOf<Step>(parts: readonly Migrations<Step>[]): readonly (readonly Step[])[] {
  const newest = Math.max(...parts.flatMap((part) => Object.keys(part).map(Number)));
  return Array.from({ length: newest }, (_, before) => {
    const steps = parts.filter((part) => Object.hasOwn(part, before + 1)).map((part) => part[before + 1]);
    if (steps.length === 0) throw new TypeError(`no part leads to the schema version ${before + 1}`);
    return steps;
  });
}

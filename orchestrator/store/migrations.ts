/**
 * What leads the tables of one part of a store to the schema versions that change them, by version. A database has one
 * version for all its parts; the first one is 1.
 */
export type Migrations<Step> = Readonly<Record<number, Step>>;

/**
 * The steps of all parts to each version, from 1 on; within a version they go in the order of the parts. Throws a TypeError
 * when a version has none: a fault of our own.
 */
export function stepsOf<Step>(parts: readonly Migrations<Step>[]): readonly (readonly Step[])[] {
  const newest = Math.max(...parts.flatMap((part) => Object.keys(part).map(Number)));
  return Array.from({ length: newest }, (_, before) => {
    const steps = parts.filter((part) => Object.hasOwn(part, before + 1)).map((part) => part[before + 1]);
    if (steps.length === 0) throw new TypeError(`no part leads to the schema version ${before + 1}`);
    return steps;
  });
}

// Runs the transcripts that every Baton client runs. `node --test Tests/Browser`
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { BatonMachine, limits } from '../../Sources/BatonGateway/Web/client/baton-machine.js';

const folder = new URL('../Conformance/client/', import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith('.json'));

/** The members that the case names; the receiver of a frame ignores the others. */
function named(actual, expected) {
  if (actual === null || typeof actual !== 'object' || typeof expected !== 'object') return actual;
  return Object.fromEntries(Object.keys(expected).filter((key) => key in actual).map((key) => [key, actual[key]]));
}

function comparable(actions, expected) {
  return actions.map((action, i) =>
    action.frame && expected[i]?.frame ? { ...action, frame: named(action.frame, expected[i].frame) } : action
  );
}

function play({ options, steps }) {
  const machine = new BatonMachine(options);
  let at = 0;
  steps.forEach((step, i) => {
    const { then = [], offset, random = 0.5, ...event } = step;
    at = event.at ?? at;
    const actions = machine.handle({ ...event, at, random });
    assert.deepEqual(comparable(actions, then), then, `step ${i + 1}: ${step.event}`);
    if (offset !== undefined) assert.equal(machine.offset, offset, `offset after step ${i + 1}`);
  });
}

assert.ok(files.length >= 4, 'the conformance cases are missing');
for (const file of files) {
  const cases = JSON.parse(readFileSync(new URL(file, folder), 'utf8'));
  for (const one of cases) {
    test(`${file}: ${one.name}`, () => {
      if (one.limits) assert.deepEqual(named(limits, one.limits), one.limits);
      else play(one);
    });
  }
}

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Page } from './fakes.mjs';

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

test('the client does with what the oldest browsers have', () => {
  const { NODE_TEST_CONTEXT, ...env } = process.env; // this process is a test itself
  const files = ['driver', 'text', 'conformance', 'ai-sdk'].map((name) => here(`${name}.test.mjs`));
  const { stdout, status } = spawnSync(process.execPath, ['--import', here('oldest.mjs'), '--test', ...files], { env, encoding: 'utf8' });
  assert.equal(status, 0, stdout.slice(-4000));
  assert.match(stdout, /pass \d{3}/);
});

test('an older browser is told at attach which one it takes', async () => {
  const { at } = Array.prototype;
  const page = new Page();
  delete Array.prototype.at;
  await assert.rejects(page.attach(), /too old; Baton needs Chromium 98, Firefox 97 or Safari 15\.4/);
  Array.prototype.at = at;
});

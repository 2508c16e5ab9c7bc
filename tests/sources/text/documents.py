"""Documents as people write them."""

MARKDOWN = """---
title: The harbour guide
date: 2023-06-01
tags: [boats, sea]
nested: {a: {b: 1}}
---
# Boats

We have *three* boats and `two_of **them**` are [small](https://example.org/s "Small").
They sail &amp; row.

## Mooring

- Take the rope.
- Tie it
  twice.

> Never tie it once,
> said the old man.

| boat | length |
|------|-------:|
| Anna | 7 m    |
| Berta | 12 m |

```python
def moor(boat):
    return boat.rope  # not *emphasis*
```

Weather
-------

Look up first. ![a grey sky](sky.jpg)

### Wind

## Tides
"""

RST = """
======
Engine
======

A *small* engine, see :doc:`the manual <manual>` and `its page <https://example.org>`_.

Starting
========

Turn the key::

    key.turn()

.. note:: It is loud.

Stopping
--------
Turn it back.

Mending
=======

Ask ``someone``.
"""

HTML = """<!doctype html>
<html><head><meta charset="utf-8"><title>Lighthouse &mdash; Coast</title>
<style>p { color: red }</style><script>if (a < b) document.write("<p>never</p>")</script></head>
<body>
<header>Coast pages</header>
<nav><ul><li><a href="/">Home</a><li><a href="/l">Lights</a></ul></nav>
<main>
<h1>The <em>lighthouse</em></h1>
<p>It was built in 1887,
and it is 30&nbsp;m high &amp; white.
<p hidden>Secret</p>
<p style="display: none">Also secret</p>
<h2>Keepers</h2>
<ul><li>Ada<li>Ben <a href="/b">the younger</a></ul>
<table><tr><th>Year<th>Keeper</tr>
<tr><td>1887</td><td>Ada</td></tr></table>
<pre>
  light.on()
</pre>
<aside>Buy a mug</aside>
<img src="l.jpg" alt="Seen from the sea">
</main>
<footer>Imprint</footer>
</body></html>
"""

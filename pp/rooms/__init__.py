"""`rooms`: how one scene becomes image, segments, depth and normals.

A scene is named by two numbers: its stream (`seed`) and its place in the stream
(`index`). Everything else follows from them. All files work with numpy alone,
except the builder. They build on each other in this order:

  vectors    arithmetic on columns of x, y, z
  camera     Camera: points of the room → image, pixels → rays
  colors     palettes; bytes ↔ linear light
  shapes     sphere, box, frustum: where a ray enters, which way it faces
  solids     Solids: all shapes of a scene in one table
  parts      what the makers of things share
  more_things  makers of the further categories of `rooms/hard`
  things     categories; Thing: one object as shapes
  kinds      plain and hard scenes: which things they should get
  layout     which things fit, and where they stand
  scene      Scene: camera, light, surfaces and things, all drawn at random
  trace      Hits: what each ray meets first, where and how far
  normals    the normal at each hit; normals of an image
  surfaces   colors of floor, rug, walls and window
  shade      how much light each hit sends to the camera
  segments   which thing or stuff each pixel shows; ids and objects
  render     all of it: (seed, index) → image, segments, objects, depth
  motion     how camera and things of a clip move
  clips      (seed, index, frame) → image, segments, objects
  worker     encoded scenes, from processes of their own
  builder    the TFDS data set `rooms`

`render.render` reads like this:

  rng = make_rng(seed, index)
  scene = draw_scene(rng, …, kind_of(seed))  what there is
  prepared = prepare(scene)                Solids, and boxes that skip most
  hits = trace_pixels(prepared)            one ray for each pixel
  color = shade(prepared, hits, …)         linear light; edges get finer rays
  number = segment_numbers(scene, hits)    then ids and objects, with flaws
  depth = hits.depth_N                     in steps, with holes

Normals are not stored. `normals.image_normals` makes them from the scene, and
the op `rooms_normals` (in `pp.ops.normals`) finds the scene by its `image/id`.

The streams from `kinds.FIRST_HARD_STREAM` on have the hard scenes of
`rooms/hard`.

To add a category: a maker in `things`, with its line in CATEGORIES. To add a
pattern: a function in `surfaces`. Both change the scenes that follow from the
same numbers, so both need another VERSION in `builder`.
"""

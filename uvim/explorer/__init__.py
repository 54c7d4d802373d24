"""A page to look at what a model predicts, and how.

  gallery    the images of one session
  session    what a UViM makes of them and of painted codes
  film       what a Pix2Seq-D makes of them, step by step
  describe   options, classes and drawings as JSON
  incoming   reads requests and refuses wrong ones
  endpoints  what is done for each request
  server     the application: page, answers, guards
  page       what all pages share in .html, .css and .js; code.js is a UViM's
             part, film.js a Pix2Seq-D's. The server sends them as one file,
             which loads nothing from elsewhere
"""

"""``valley chat``: everything but the command's options. Each may use those further down.

lines                                          lines in, answers out
terminal editor complete stages                the line editor, its keys, what Tab offers, what loads meanwhile
slash slash_media slash_model slash_files      the / commands
session                                        asks the engine, shows and keeps what it says
conversation attach room store opening         the value; bytes; does it fit; files; the engine on its way
"""
